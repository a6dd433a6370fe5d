"""An HTTP front before taskiq (`app`, run by uvicorn) and its broker (run by `taskiq worker`)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from taskiq import TaskiqEvents, TaskiqState
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.queue_app import POLL_S, REDIS_PORT, RESULT_S, WAIT_S, NewTask, complete, engine_client

URL = f"redis://127.0.0.1:{REDIS_PORT}"
broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=RESULT_S))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await broker.startup()
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/tasks")
async def create_task(new: NewTask) -> dict[str, str]:
    """Put a task into the queue and wait for its result."""
    task = await complete_task.kiq(new.prompt)
    result = await task.wait_result(check_interval=POLL_S, timeout=WAIT_S)
    return {"status": "Completed", "result": result.return_value}


@broker.on_event(TaskiqEvents.WORKER_STARTUP)  # type: ignore[untyped-decorator]
async def startup(state: TaskiqState) -> None:
    state.engine = engine_client()


@broker.task  # type: ignore[untyped-decorator]
async def complete_task(prompt: str) -> str:
    engine: httpx.AsyncClient = broker.state.engine
    return await complete(engine, prompt)
