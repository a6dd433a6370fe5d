"""Count the calls to AWS that a POST makes, and those that the worker makes for a task."""

from benchmarks.aws import deployment

TASKS = 10


def run() -> None:
    with deployment() as on:
        on.submit("warm up")
        on.worker({"Records": on.messages()})
        for name, mode in (("Chat", "Chat"), ("Plan", "Plan")):
            on.called.clear()
            for n in range(TASKS):
                on.submit(f"Design cache {n}, then implement it, then test it.", mode=mode)
            print(f"  POST ({name}): {_each(on.called)}")
            on.called.clear()
            while records := on.messages():
                on.worker({"Records": records})
            print(f"  worker ({name}): {_each(on.called)}")


def _each(called: dict[str, int]) -> str:
    parts = ", ".join(f"{count / TASKS:g} {name}" for name, count in sorted(called.items()))
    return f"{sum(called.values()) / TASKS:g} calls a task ({parts})"
