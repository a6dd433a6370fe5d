"""Submit each line of a file as a task. Running this again makes no task twice, so run it again after a failure.

    python examples/safe_batch.py monday prompts.txt

`monday` names the batch. Each task's Idempotency-Key is the batch's name and the line's number. Within 24 hours, the
server answers a call with the same key with the same task. If the line has changed, it refuses the call (422).
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from client import Refused, call, wait_until_final

TRIES = 5
MAX_PAUSE_S = 60
PASSING = (429, 500, 502, 503, 504)
"""Statuses after which the same call may succeed."""


def submit(prompt: str, idempotency_key: str) -> str:
    """Return the id of the task, made now or by an earlier call with this key; repeat calls that may succeed later."""
    for attempt in range(TRIES):
        try:
            answer = call("POST", "/tasks", {"prompt": prompt}, idempotency_key=f'"{idempotency_key}"')
            return str(answer["task_id"])
        except Refused as refused:
            if refused.status not in PASSING or refused.retry_after_s > MAX_PAUSE_S:
                raise SystemExit(f"The server refused {idempotency_key}: {refused}") from None
            pause_s = refused.retry_after_s
        except OSError as error:  # the server does not run, or its answer was lost and the task exists already
            print(f"No answer to {idempotency_key} ({error}); trying again.", file=sys.stderr)
            pause_s = 2**attempt
        time.sleep(pause_s)
    raise SystemExit(f"The server did not accept {idempotency_key} in {TRIES} tries. Run this again later.")


def main(batch: str, file: str) -> None:
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    task_ids = [submit(line, f"{batch}-{number}") for number, line in enumerate(lines, start=1) if line.strip()]
    for task_id in task_ids:
        task = wait_until_final(task_id)
        print(task_id, task["status"], repr(task["result"] or task["error"]))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print("usage: python examples/safe_batch.py BATCH FILE", file=sys.stderr)
        sys.exit(2)
    main(*sys.argv[1:])
