"""CPU time of a cold start: importing each Lambda handler, compared with importing only the libraries it needs.

Both sides make the two AWS clients. They take turns, so that a busy machine slows both.
"""

import os
import statistics
import subprocess
import sys

ROUNDS = 11
CLIENTS = "boto3.client('dynamodb'); boto3.client('sqs')"
SIDES = {
    "worker": ("import llm_server.lambda_worker", f"import boto3, urllib3; {CLIENTS}", 1.3),
    "API": ("import llm_server.lambda_api", f"import fastapi, mangum, boto3; {CLIENTS}", 1.1),
}
ENVIRONMENT = {
    "LLM_SERVER_TABLE": "table",
    "LLM_SERVER_QUEUE_URL": "http://127.0.0.1:1/queue",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
}


def run() -> None:
    for name, (ours, bare, expected) in SIDES.items():
        pairs = [(_cpu_s(ours), _cpu_s(bare)) for _ in range(ROUNDS)]
        own, minimum = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        times = f"{own * 1000:.0f} ms CPU, libraries alone {minimum * 1000:.0f} ms"
        print(f"  {name}: {times}: {ratio:.2f} x (expected <= {expected})")


def _cpu_s(code: str) -> float:
    measured = f"import time; start = time.process_time()\n{code}\nprint(time.process_time() - start)"
    command = [sys.executable, "-c", measured]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **ENVIRONMENT})
    return float(done.stdout.split()[-1])
