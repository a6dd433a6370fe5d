"""The HTTP client against a real server on loopback."""

import socket
from collections.abc import Iterator

import pytest

from llm_server.cli.client import Client
from llm_server.cli.connection import Answer, ServerRefused, ServerUnreachable
from support.scripted_server import Reply, Script, scripted_server, task


@pytest.fixture
def server() -> Iterator[Script]:
    with scripted_server() as script:
        yield script


class Clock:
    """Time that passes only while the client sleeps."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds


def a_client(url: str, clock: Clock) -> Client:
    return Client(url, clock=clock, sleep=clock.sleep)


def statuses(client: Client, answer: Answer, timeout_s: float = 1_000) -> list[str]:
    return [newer.status for newer in client.follow(answer, until=client.deadline(timeout_s))]


def test_a_task_is_sent_once_and_unchanged_below_api_v1(server: Script) -> None:
    """The body has only the caller's fields, because the server refuses unknown ones."""
    server.replies = [Reply(body=task("Queued"), status=202)]

    answer = Client(server.url).submit({"prompt": "Grüße 🌍", "role": "Writing-Agent"}, hold_s=7)

    (asked,) = server.asked
    assert asked.line == "POST /api/v1/tasks"
    assert asked.body == {"prompt": "Grüße 🌍", "role": "Writing-Agent"}
    assert (asked.headers["Prefer"], asked.headers["Content-Type"]) == ("wait=7", "application/json")
    assert (answer.task_id, answer.status, answer.final) == ("t1", "Queued", False)


def test_a_submit_without_an_answer_is_sent_again_with_the_same_idempotency_key(server: Script) -> None:
    """After a cut connection and after a 503 with Retry-After: the key is the same, so only one task is created."""
    clock = Clock()
    server.replies = [
        Reply(body=None),
        Reply(body={"detail": "The store cannot be reached."}, status=503, retry_after="4"),
        Reply(body=task("Queued"), status=202),
    ]

    assert a_client(server.url, clock).submit({"prompt": "x"}).task_id == "t1"
    assert len({asked.headers["Idempotency-Key"] for asked in server.asked}) == 1
    assert clock.slept == [1, 4]


def test_two_submits_have_different_idempotency_keys(server: Script) -> None:
    """Sending the same prompt twice on purpose creates two tasks."""
    server.replies = [Reply(body=task("Queued"), status=202)]
    client = Client(server.url)
    for _ in range(2):
        client.submit({"prompt": "x"})

    assert len({asked.headers["Idempotency-Key"] for asked in server.asked}) == 2


def test_a_submit_fails_after_three_attempts(server: Script) -> None:
    server.replies = [Reply(body={"detail": "Busy."}, status=503)]

    with pytest.raises(ServerUnreachable, match="Busy"):
        a_client(server.url, Clock()).submit({"prompt": "x"})
    assert len(server.asked) == 3


def test_without_a_hold_no_prefer_header_is_sent(server: Script) -> None:
    """`Prefer: wait=0` would have no effect."""
    server.replies = [Reply(body=task("Queued"), status=202)]

    Client(server.url).submit({"prompt": "x"})

    assert "Prefer" not in server.asked[0].headers


@pytest.mark.parametrize("end", ["", "/", "/api/v1", "/api/v1/"])
def test_the_base_url_may_be_an_api_gateway_stage(server: Script, end: str) -> None:
    """Whichever form of the address is given, calls go to its /api/v1."""
    server.replies = [Reply(body={"server_status": "online"})]

    Client(f"{server.url}/prod{end}").metrics()

    assert server.asked[0].line == "GET /prod/api/v1/metrics"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://localhost", "http://", "http://[", "http://x?y=1"])
def test_an_invalid_address_is_refused_before_any_call(url: str) -> None:
    """A wrong setting is named at once and not reported as a server that is down."""
    with pytest.raises(ValueError, match="is not an http or https address"):
        Client(url)


def test_an_id_is_escaped_in_the_path(server: Script) -> None:
    """An id with slashes or a query must not call another path."""
    server.replies = [Reply(body={"detail": "No task has this id."}, status=404)]

    with pytest.raises(ServerRefused, match="No task has this id"):
        Client(server.url).task("../metrics?x=1")
    assert server.asked[0].line == "GET /api/v1/tasks/..%2Fmetrics%3Fx%3D1"


def test_polls_follow_retry_after(server: Script) -> None:
    """Each pause is the one of the last answer, because the server knows when polling is useful."""
    clock = Clock()
    client = a_client(server.url, clock)
    server.replies = [
        Reply(body=task("Queued"), status=202, retry_after="3"),
        Reply(body=task("Processing"), retry_after="7"),
        Reply(body=task("Completed", result="done")),
    ]

    assert statuses(client, client.submit({"prompt": "x"})) == ["Processing", "Completed"]
    assert clock.slept == [3, 7]
    assert [asked.line for asked in server.asked[1:]] == ["GET /api/v1/tasks/t1"] * 2


@pytest.mark.parametrize(
    ("retry_after", "pause_s"),
    [(None, 1), ("soon", 1), ("nan", 1), ("-5", 1), ("0", 0.05), ("86400", 60), ("inf", 60)],
)
def test_an_invalid_retry_after_is_replaced_by_a_sensible_pause(
    server: Script, retry_after: str | None, pause_s: float
) -> None:
    """A proxy's header must not make the client poll without pause, sleep for a day or fail."""
    server.replies = [Reply(body=task("Queued"), retry_after=retry_after)]

    assert Client(server.url).task("t1").pause_s == pause_s


def test_the_last_poll_is_at_the_deadline(server: Script) -> None:
    """A long Retry-After is cut at the caller's timeout, and one more poll sees whether the task has ended."""
    clock = Clock()
    client = a_client(server.url, clock)
    server.replies = [
        Reply(body=task("Queued"), retry_after="8"),
        Reply(body=task("Planned"), retry_after="8"),
    ]

    assert statuses(client, client.task("t1"), timeout_s=10) == ["Planned", "Planned"]
    assert clock.slept == [8, 2]


def test_a_final_task_is_not_polled(server: Script) -> None:
    """A final task never changes."""
    server.replies = [Reply(body=task("Cancelled"))]
    client = a_client(server.url, Clock())

    assert statuses(client, client.task("t1")) == []
    assert len(server.asked) == 1


def test_waiting_survives_a_restart_of_the_server(server: Script) -> None:
    """Tasks survive a restart, so the client accepts a few failed polls."""
    clock = Clock()
    client = a_client(server.url, clock)
    server.replies = [
        Reply(body=task("Queued"), retry_after="1"),
        Reply(body=None),
        Reply(body={"detail": "The store cannot be reached."}, status=503, retry_after="4"),
        Reply(body={"detail": "Too many requests."}, status=429, retry_after="9"),
        Reply(body=task("Completed")),
    ]

    assert statuses(client, client.task("t1")) == ["Completed"]
    assert clock.slept == [1, 1, 4, 9]


def test_waiting_ends_after_six_failed_polls_in_a_row(server: Script) -> None:
    """The error has the detail of the last answer."""
    client = a_client(server.url, Clock())
    server.replies = [
        Reply(body=task("Queued")),
        Reply(body={"detail": "The store cannot be reached."}, status=503),
    ]

    with pytest.raises(ServerUnreachable, match="The store cannot be reached"):
        statuses(client, client.task("t1"))
    assert len(server.asked) == 1 + 6


def test_a_deleted_task_ends_the_waiting_at_once(server: Script) -> None:
    """Polling again cannot help."""
    client = a_client(server.url, Clock())
    server.replies = [Reply(body=task("Queued")), Reply(body={"detail": "No task has this id."}, status=404)]

    with pytest.raises(ServerRefused):
        statuses(client, client.task("t1"))
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 429])
def test_a_4xx_is_raised_with_the_servers_sentence(server: Script, status: int) -> None:
    """The `detail` is written for the caller."""
    server.replies = [Reply(body={"detail": "Unknown role 'X'."}, status=status)]

    with pytest.raises(ServerRefused, match=r"^Unknown role 'X'\.$"):
        Client(server.url).submit({"prompt": "x"})


def test_an_error_of_api_gateway_is_shown_too(server: Script) -> None:
    """API Gateway answers before the server does, and its sentence is in `message`."""
    server.replies = [Reply(body={"message": "Forbidden"}, status=403)]

    with pytest.raises(ServerRefused, match=r"^Forbidden$"):
        Client(server.url).metrics()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"<html>hello</html>"),
        Reply(body=b"[1]"),
        Reply(body={"hello": "world"}),
        Reply(body=b"", status=302),
        Reply(body=b"Bad gateway", status=502),
        Reply(body=b"\xff\xfe", status=500),
        Reply(body=None),
    ],
)
def test_an_answer_that_is_not_from_an_llm_server_names_the_address(server: Script, reply: Reply) -> None:
    """Another program on the port, a proxy or a cut connection gives one sentence without a traceback."""
    server.replies = [reply]

    with pytest.raises(ServerUnreachable, match=server.url):
        Client(server.url).task("t1")


def test_a_closed_port_is_unreachable_with_a_short_reason() -> None:
    """The reason is the operating system's message and not the text of an HTTP library's object."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(ServerUnreachable) as caught:
            Client(url).metrics()

    assert str(caught.value) == f"No LLM-Server answers at {url}: Connection refused."
