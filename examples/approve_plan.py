"""Let the server plan a task, show the plan, and carry it out only if you approve it.

python examples/approve_plan.py "Design a cache, then implement it, then test it."
"""

from __future__ import annotations

import sys
import time

from client import FINAL, call, wait_until_final


def main(prompt: str) -> None:
    task_id = call("POST", "/tasks", {"prompt": prompt, "mode": "Plan", "plan_approval": True})["task_id"]
    while not (task := call("GET", f"/tasks/{task_id}"))["awaiting_approval"]:
        if task["status"] in FINAL:  # no usable plan was proposed, or the task was cancelled
            raise SystemExit(f"{task['status']}: {task['error']}")
        time.sleep(1)

    plan = task["plan"]
    print(f"Goal: {plan['goal']}")
    for step in plan["steps"]:
        print(f"  {step['id']}  {step['role']}: {step['instruction']}")

    # The hash names the plan that was shown, so that no other plan can be approved by mistake.
    decision = "approve" if input("Carry it out? [y/N] ").strip().lower() == "y" else "reject"
    call("POST", f"/tasks/{task_id}/{decision}", {"plan_hash": plan["hash"]})
    task = wait_until_final(task_id)
    print(f"\n{task['status']}\n{task['result'] or ''}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        print("usage: python examples/approve_plan.py PROMPT", file=sys.stderr)
        sys.exit(2)
    main(sys.argv[1])
