"""The thread that reads all streamed answers: none of them waits for another, and each ends for itself."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.exceptions import TimeoutError as HTTPTimeout

from llm_server.engines.streams.pump import READ_BYTES, Pump, shut_down

THREAD = "engine-streams"


class Sockets:
    """Connected pairs of sockets: one is read by the pump, the other is the engine's."""

    def __init__(self, exits: ExitStack) -> None:
        self._exits = exits

    def pair(self) -> tuple[socket.socket, socket.socket]:
        ours, theirs = socket.socketpair()
        self._exits.enter_context(ours)
        self._exits.enter_context(theirs)
        return ours, theirs


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    with ExitStack() as exits:
        yield Sockets(exits)


class Reading(threading.Thread):
    """A thread that waits for one stream, until its end or a byte `.`; it keeps what came, and what was raised."""

    def __init__(self, pump: Pump, sock: socket.socket, take: Callable[[bytes], bool] | None = None) -> None:
        super().__init__(daemon=True)
        self.came = list[bytes]()
        self.error: BaseException | None = None
        self._pump, self._sock, self._take = pump, sock, take or self.keep
        self.until_s = time.monotonic() + 10
        self.start()

    def keep(self, data: bytes) -> bool:
        self.came.append(data)
        return bool(data) and not data.endswith(b".")

    def run(self) -> None:
        try:
            self._pump.read(self._sock, self._take, until_s=lambda: self.until_s, check_s=0.05)
        except BaseException as error:
            self.error = error

    def ended(self) -> bytes:
        self.join(5)
        assert not self.is_alive()
        return b"".join(self.came)


def pumps() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def wait_for(is_so: Callable[[], Any]) -> None:
    until_s = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < until_s
        time.sleep(0.002)


def test_one_thread_reads_all_streams(sockets: Sockets) -> None:
    pump, before, threads = Pump(), len(pumps()), set[int]()
    pairs = [sockets.pair() for _ in range(20)]

    def take(data: bytes) -> bool:
        threads.add(threading.get_ident())
        return bool(data) and not data.endswith(b".")

    readings = [Reading(pump, ours, take) for ours, _ in pairs]
    for _, theirs in pairs:
        theirs.sendall(b"one")
    wait_for(lambda: threads)

    assert len(pumps()) == before + 1
    for _, theirs in pairs:
        theirs.sendall(b".")
    for reading in readings:
        reading.ended()
        assert reading.error is None
    assert len(threads) == 1


def test_what_one_stream_raises_ends_no_other(sockets: Sockets) -> None:
    pump = Pump()
    (ours, theirs), (bad, evil) = sockets.pair(), sockets.pair()

    def fail(data: bytes) -> bool:
        raise LookupError(data)

    reading, failing = Reading(pump, ours), Reading(pump, bad, fail)
    theirs.sendall(b"a")
    evil.sendall(b"b")
    failing.ended()
    theirs.sendall(b".")

    assert isinstance(failing.error, LookupError)
    assert reading.ended() == b"a."
    assert reading.error is None


def test_a_flood_does_not_keep_others_waiting(sockets: Sockets) -> None:
    """A stream has its turn after at most two reads of another one."""
    pump = Pump()
    (flooded, flood), (ours, theirs) = sockets.pair(), sockets.pair()
    turns = list[tuple[str, int]]()

    def take(name: str) -> Callable[[bytes], bool]:
        def note(data: bytes) -> bool:
            if name == "flood" and not turns:
                theirs.sendall(b".")
            turns.append((name, len(data)))
            return name == "flood" and bool(data)

        return note

    other = Reading(pump, ours, take("other"))

    def send() -> None:
        with flood:
            flood.sendall(b"x" * 4_000_000)

    sender = threading.Thread(target=send)
    sender.start()
    flooding = Reading(pump, flooded, take("flood"))
    other.ended()
    flooding.ended()
    sender.join()

    names = [name for name, _ in turns]
    assert names.index("other") <= 3
    assert max(size for _, size in turns) <= READ_BYTES
    assert sum(size for _, size in turns) == 4_000_001


def test_the_end_of_the_connection_is_told(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    reading = Reading(Pump(), ours)
    theirs.sendall(b"half")
    theirs.close()

    assert reading.ended() == b"half"
    assert reading.came[-1] == b""


def test_a_connection_that_is_reset_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as ours:
        theirs, _ = listener.accept()
        reading = Reading(Pump(), ours)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        theirs.close()
        reading.ended()

    assert isinstance(reading.error, ProtocolError)
    assert isinstance(reading.error.args[1], ConnectionResetError)


def test_a_wait_ends_in_time_also_if_the_time_is_shortened_meanwhile(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    reading = Reading(Pump(), ours)
    theirs.sendall(b"one")
    wait_for(lambda: reading.came)

    reading.until_s = time.monotonic() + 0.2
    started_s = time.monotonic()
    reading.ended()

    assert isinstance(reading.error, HTTPTimeout)
    assert 0.1 < time.monotonic() - started_s < 0.6
    assert reading.came == [b"one"]
    with pytest.raises(BrokenPipeError):  # the socket was shut down, so the engine learns of it
        theirs.sendall(b"two")


def test_nothing_is_passed_on_after_the_wait_has_ended(sockets: Sockets) -> None:
    """A piece that was read in time but comes too late to be passed on would follow the failure of its call."""
    ours, theirs = sockets.pair()
    (stuck, holder), pump, held = sockets.pair(), Pump(), threading.Event()
    busy = Reading(pump, stuck, lambda _: held.wait(5) and False)
    holder.sendall(b"x")
    reading = Reading(pump, ours)
    reading.until_s = time.monotonic() + 0.1
    theirs.sendall(b"late.")
    time.sleep(0.3)
    held.set()
    busy.ended()

    assert reading.ended() == b""
    assert isinstance(reading.error, HTTPError)


def test_a_stream_that_is_shut_down_elsewhere_ends(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    reading = Reading(Pump(), ours)
    theirs.sendall(b"one")
    wait_for(lambda: reading.came)

    shut_down(ours)

    assert reading.ended() == b"one"


def test_the_thread_ends_without_streams_and_starts_again(sockets: Sockets) -> None:
    pump, before = Pump(max_idle_s=0.05), set(pumps())
    for _ in range(3):
        ours, theirs = sockets.pair()
        theirs.sendall(b"all.")
        assert Reading(pump, ours).ended() == b"all."

        wait_for(lambda: not set(pumps()) - before)


def test_a_stream_that_is_silent_for_long_keeps_the_thread(sockets: Sockets) -> None:
    ours, theirs = sockets.pair()
    reading = Reading(Pump(max_idle_s=0.02), ours)
    time.sleep(0.2)
    theirs.sendall(b"at last.")

    assert reading.ended() == b"at last."


class Faulty(socket.socket):
    """A socket whose reading fails in a way that no socket's does."""

    def recv(self, *_: int) -> bytes:
        raise LookupError


def test_a_failure_of_the_pump_hangs_no_stream(sockets: Sockets) -> None:
    """It is a fault of the pump itself, so all its streams end; the next one starts it again."""
    pump, (ours, theirs), (plain, _) = Pump(), sockets.pair(), sockets.pair()
    reading = Reading(pump, ours)
    theirs.sendall(b"one")
    wait_for(lambda: reading.came)
    with Faulty(fileno=plain.detach()) as faulty:
        readings = [reading, Reading(pump, faulty)]
        for each in readings:
            each.ended()
            assert isinstance(each.error, ProtocolError)

    ours, theirs = sockets.pair()
    theirs.sendall(b"again.")
    assert Reading(pump, ours).ended() == b"again."
