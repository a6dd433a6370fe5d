"""What the applications of both queues share. The modules `*_app` run in an environment of the queue."""

import os

import httpx
from pydantic import BaseModel

REDIS_PORT = int(os.environ["PEERS_REDIS_PORT"])
POLL_S = float(os.environ["PEERS_POLL_S"])
"""Seconds between two looks of the front for a result."""
MAX_TASKS = 64
WAIT_S = 25
RESULT_S = 60
"""Seconds until Redis drops a result."""


class NewTask(BaseModel):
    """The body of a POST."""

    prompt: str


def engine_client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=MAX_TASKS, max_keepalive_connections=MAX_TASKS)
    return httpx.AsyncClient(base_url=os.environ["PEERS_ENGINE"], limits=limits, timeout=30)


async def complete(client: httpx.AsyncClient, prompt: str) -> str:
    """Ask the engine by HTTP, as the SDK of OpenAI does."""
    body = {"model": "fake-1", "messages": [{"role": "user", "content": prompt}]}
    response = await client.post("/chat/completions", json=body)
    response.raise_for_status()
    text: str = response.json()["choices"][0]["message"]["content"]
    return text
