"""See what happens when money runs out: for one task (`max_cost_usd`), and for a key's day (`usd_per_day`).

Needs an engine that costs money (examples/own_engine pretends to) and a key with a small budget:

    export LLM_SERVER_API_KEY=$(llm-server keys create --tenant acme --scope tasks --usd-per-day 0.005)
    python examples/budget.py
"""

from __future__ import annotations

from client import Refused, call, wait_until_final

MAX_TASKS = 20


def submit(prompt: str, max_cost_usd: float) -> str:
    return str(call("POST", "/tasks", {"prompt": prompt, "limits": {"max_cost_usd": max_cost_usd}})["task_id"])


def main() -> None:
    # A task's own limit holds before an engine is called: the task fails and has cost nothing.
    task = wait_until_final(submit("Name a prime number.", max_cost_usd=0.000001))
    print(f"max_cost_usd: {task['status']}, {task['receipt']['cost_microusd']} micro-USD: {task['error']}")

    # A key's budget holds for all its tasks of a UTC day. A task whose next call could cost more than is left fails;
    # once everything is used up, new tasks are refused with 429.
    for number in range(1, MAX_TASKS + 1):
        try:
            task = wait_until_final(submit(f"Name {number} prime numbers.", max_cost_usd=0.01))
        except Refused as refused:
            print(f"usd_per_day: {refused.status}, try again in {refused.retry_after_s:.0f} s: {refused}")
            break
        print(f"task {number}: {task['status']}, {task['receipt']['cost_microusd']} micro-USD")
        if task["status"] == "Failed":
            print(f"usd_per_day: {task['error']}")
            break
    usage = call("GET", "/usage")
    print(f"Spent today: {usage['spent_microusd']} micro-USD.")


if __name__ == "__main__":
    main()
