"""Show what happens when a budget is used up: that of a task (`max_cost_usd`) and that of a key (`usd_per_day`).

Needs an engine with a price (such as examples/own_engine) and a key with a small budget:

    export LLM_SERVER_API_KEY=$(llm-server keys create --tenant acme --scope tasks --usd-per-day 0.01)
    python examples/budget.py
"""

from __future__ import annotations

from client import Refused, call, wait_until_final

MAX_TASKS = 20


def submit(prompt: str, max_cost_usd: float) -> str:
    return str(call("POST", "/tasks", {"prompt": prompt, "limits": {"max_cost_usd": max_cost_usd}})["task_id"])


def main() -> None:
    # The server checks a task's limit before it calls an engine, so this task fails and costs nothing.
    task = wait_until_final(submit("Name a prime number.", max_cost_usd=0.000001))
    print(f"max_cost_usd: {task['status']}, {task['receipt']['cost_microusd']} micro-USD: {task['error']}")

    # A key's budget covers all its tasks of a UTC day. A task fails if its next call could cost more than is left.
    # When the budget is used up, new tasks are refused with 429.
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
