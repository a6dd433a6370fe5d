"""Measure streams beside a bare asyncio proxy of the same engine: delay of the first token, CPU, and memory.

The engine writes the time into each piece of text, so a reader knows how long the piece took to reach it.
"""

import asyncio
import json
import multiprocessing
import os
import re
import tempfile
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import aws  # noqa: F401 - puts tests/ on the path
from support.server_process import RunningServer, serving

PIECES = 40
PIECE_S = 0.05
STREAMS = (1, 100)
ABORTED = 10_000
READERS = 50
_STAMP = re.compile(rb'"(?:content|text)": ?"<([0-9.]+)> "')
Handle = Callable[[StreamReader, StreamWriter], Awaitable[None]]


def run() -> None:
    with tempfile.TemporaryDirectory() as folder, _process(_serve_engine) as (engine, _):
        config = Path(folder, "engines.toml")
        config.write_text(
            '[defaults]\ntriage = "off"\nanswer_gate = false\n[engines.fake]\nkind = "openai"\nsource = "local"\n'
            f'model = "fake-1"\nmax_concurrency = 400\nbase_url = "http://127.0.0.1:{engine}/v1"\n'
        )
        with (
            _process(_serve_proxy, engine) as (proxy, proxy_pid),
            serving(Path(folder, "tasks.db"), env={"LLM_SERVER_CONFIG": str(config)}) as server,
        ):
            port = int(server.url.rpartition(":")[2])
            asyncio.run(_all(5, lambda: _of_task(port)))
            asyncio.run(_all(5, lambda: _of_proxy(proxy)))
            for count in STREAMS:
                _report("server", count, server.process.pid, lambda: _of_task(port))
                _report("proxy", count, proxy_pid, lambda: _of_proxy(proxy))
            _abort(server, port)


def _report(name: str, count: int, pid: int, read: Callable[[], Awaitable[list[float]]]) -> None:
    """Print the delays of the first piece and of all pieces over the engine's, and the CPU time of a stream."""
    rounds = 20 if count == 1 else 2
    before, delays = _cpu_s(pid), list[list[float]]()
    for _ in range(rounds):
        delays += asyncio.run(_all(count, read))
    cpu_ms = (_cpu_s(pid) - before) * 1000 / (rounds * count)
    first, every = sorted(each[0] for each in delays), sorted(delay for each in delays for delay in each)
    print(
        f"  {name}, {count} at a time: first token {_ms(first, 0.5)} ms p50, {_ms(first, 0.99)} p99; all tokens "
        f"{_ms(every, 0.5)} p50, {_ms(every, 0.99)} p99; CPU {cpu_ms:.1f} ms a stream of {PIECES} tokens"
    )


def _abort(server: RunningServer, port: int) -> None:
    """Print the memory after streams that were broken off while their task went on."""
    task_id = server.submit("Write slowly.", stream=True)["task_id"]
    request = f"GET /api/v1/tasks/{task_id}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"

    async def leave() -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.encode())
        await reader.readuntil(b"event: accepted")
        writer.transport.abort()
        return []

    async def many(count: int) -> None:
        for _ in range(count // READERS):
            await _all(READERS, leave)

    memory = [_memory_mb(server.process.pid)]
    for part in (ABORTED // 10, ABORTED * 9 // 10):
        asyncio.run(many(part))
        memory.append(_memory_mb(server.process.pid))
    status = server.finished(task_id)["status"]
    print(
        f"  memory: {memory[0]:.1f} MB before, {memory[1]:.1f} after {ABORTED // 10:,} aborted streams, "
        f"{memory[2]:.1f} after {ABORTED:,}; their task is {status}"
    )


async def _all(count: int, read: Callable[[], Awaitable[list[float]]]) -> list[list[float]]:
    return list(await asyncio.gather(*(read() for _ in range(count))))


async def _of_task(port: int) -> list[float]:
    """Create a task, read its stream, and return the delays of its pieces."""
    body = json.dumps({"prompt": "Say hello.", "mode": "Chat", "stream": True}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"Host: localhost\r\nContent-Type: application/json\r\n"
    writer.write(b"POST /api/v1/tasks HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (head, len(body), body))
    task_id = (await reader.readuntil(b'","status"')).rpartition(b'{"task_id":"')[2].partition(b'"')[0]
    await reader.readuntil(b"}")
    writer.write(b"GET /api/v1/tasks/%s/events HTTP/1.1\r\n" % task_id)
    writer.write(b"Host: localhost\r\nAccept: text/event-stream\r\n\r\n")
    return await _delays(reader, writer, b"event: end")


async def _of_proxy(port: int) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}")
    return await _delays(reader, writer, b"[DONE]")


async def _delays(reader: StreamReader, writer: StreamWriter, end: bytes) -> list[float]:
    read, delays = b"", list[float]()
    while end not in read:
        data = await reader.read(65536)
        assert data, read
        now, read = time.time(), read + data
        stamps = _STAMP.findall(read)
        delays += [now - float(stamp) for stamp in stamps[len(delays) :]]
    writer.close()
    assert len(delays) == PIECES, (len(delays), read)
    return delays


async def _engine(reader: StreamReader, writer: StreamWriter) -> None:
    """Answer Chat Completions on one connection, each as a stream whose pieces have the time."""
    while head := await _head(reader):
        await reader.readexactly(int(re.findall(rb"(?i)content-length: (\d+)", head)[0]))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(PIECES):
            await asyncio.sleep(PIECE_S)
            _write_chunk(writer, {"delta": {"content": f"<{time.time():.6f}> "}})
        _write_chunk(writer, {"delta": {}, "finish_reason": "stop"})
        usage = {"prompt_tokens": 11, "completion_tokens": PIECES}
        for data in (json.dumps({"choices": [], "usage": usage}).encode(), b"[DONE]"):
            _write_event(writer, data)
        writer.write(b"0\r\n\r\n")
    writer.close()


def _write_chunk(writer: StreamWriter, choice: dict[str, object]) -> None:
    _write_event(writer, json.dumps({"object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}).encode())


def _write_event(writer: StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\ndata: %s\n\n\r\n" % (len(data) + 8, data))


def _proxied(engine: int) -> Handle:
    async def proxy(reader: StreamReader, writer: StreamWriter) -> None:
        """Pass one request on, and its response back as it comes."""
        source, target = await asyncio.open_connection("127.0.0.1", engine)
        target.write(await _head(reader) + await reader.readexactly(2))
        while data := await source.read(65536):
            writer.write(data)
            await writer.drain()
            if data.endswith(b"0\r\n\r\n"):
                break
        target.close()
        writer.close()

    return proxy


async def _head(reader: StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


def _serve_engine(pipe: Connection) -> None:
    asyncio.run(_serve(_engine, pipe))


def _serve_proxy(pipe: Connection, engine: int) -> None:
    asyncio.run(_serve(_proxied(engine), pipe))


async def _serve(handle: Handle, pipe: Connection) -> None:
    server = await asyncio.start_server(handle, "127.0.0.1", 0, backlog=512)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


@contextmanager
def _process(serve: Callable[..., None], *arguments: int) -> Iterator[tuple[int, int]]:
    """Serve in a process of its own; yield its port and its process id."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        yield ours.recv(), process.pid or 0
    finally:
        process.terminate()
        process.join()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> float:
    (resident,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(resident) / 1024


def _ms(values: list[float], share: float) -> str:
    return f"{values[min(len(values) - 1, int(len(values) * share))] * 1000:.1f}"
