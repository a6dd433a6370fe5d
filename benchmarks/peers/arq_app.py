"""An HTTP front before arq (`app`, run by uvicorn) and its worker (run this module)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvloop
from arq import create_pool, func, run_worker
from arq.connections import RedisSettings
from fastapi import FastAPI

from benchmarks.peers.queue_app import MAX_TASKS, POLL_S, REDIS_PORT, RESULT_S, WAIT_S, NewTask, complete, engine_client

REDIS = RedisSettings(host="127.0.0.1", port=REDIS_PORT)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.queue = await create_pool(REDIS)
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/tasks")
async def create_task(new: NewTask) -> dict[str, str]:
    """Put a task into the queue and wait for its result."""
    job = await app.state.queue.enqueue_job("complete_task", new.prompt)
    return {"status": "Completed", "result": await job.result(timeout=WAIT_S, poll_delay=POLL_S)}


async def complete_task(context: dict[str, Any], prompt: str) -> str:
    engine: httpx.AsyncClient = context["engine"]
    return await complete(engine, prompt)


async def startup(context: dict[str, Any]) -> None:
    context["engine"] = engine_client()


class WorkerSettings:
    """The settings of arq's worker."""

    functions = (func(complete_task, keep_result=RESULT_S, max_tries=1),)
    redis_settings = REDIS
    on_startup = startup
    max_jobs = MAX_TASKS
    poll_delay = 0.01
    log_results = False


if __name__ == "__main__":
    uvloop.install()
    run_worker(WorkerSettings)
