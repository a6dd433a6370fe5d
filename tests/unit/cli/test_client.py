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


def test_a_task_is_sent_once_as_given_below_api_v1(server: Script) -> None:
    """The body is the caller's fields and no others: the server refuses those it does not know."""
    server.replies = [Reply(body=task("Queued"), status=202)]

    answer = Client(server.url).submit({"prompt": "Grüße 🌍", "role": "Writing-Agent"}, hold_s=7)

    (asked,) = server.asked
    assert asked.line == "POST /api/v1/tasks"
    assert asked.body == {"prompt": "Grüße 🌍", "role": "Writing-Agent"}
    assert (asked.headers["Prefer"], asked.headers["Content-Type"]) == ("wait=7", "application/json")
    assert (answer.task_id, answer.status, answer.final) == ("t1", "Queued", False)


def test_a_submit_that_got_no_answer_is_sent_again_under_its_key(server: Script) -> None:
    """Cut off, or refused by a server that is away: one key, so one task, and the pause the server asked for."""
    clock = Clock()
    server.replies = [
        Reply(body=None),
        Reply(body={"detail": "The store cannot be reached."}, status=503, retry_after="4"),
        Reply(body=task("Queued"), status=202),
    ]

    assert a_client(server.url, clock).submit({"prompt": "x"}).task_id == "t1"
    assert len({asked.headers["Idempotency-Key"] for asked in server.asked}) == 1
    assert clock.slept == [1, 4]


def test_two_submits_have_two_keys(server: Script) -> None:
    """The same prompt twice is two tasks, as it was asked for."""
    server.replies = [Reply(body=task("Queued"), status=202)]
    client = Client(server.url)
    for _ in range(2):
        client.submit({"prompt": "x"})

    assert len({asked.headers["Idempotency-Key"] for asked in server.asked}) == 2


def test_a_submit_is_given_up_after_three_times(server: Script) -> None:
    server.replies = [Reply(body={"detail": "Busy."}, status=503)]

    with pytest.raises(ServerUnreachable, match="Busy"):
        a_client(server.url, Clock()).submit({"prompt": "x"})
    assert len(server.asked) == 3


def test_without_a_hold_no_preference_is_sent(server: Script) -> None:
    """`Prefer: wait=0` would ask for nothing."""
    server.replies = [Reply(body=task("Queued"), status=202)]

    Client(server.url).submit({"prompt": "x"})

    assert "Prefer" not in server.asked[0].headers


@pytest.mark.parametrize("end", ["", "/", "/api/v1", "/api/v1/"])
def test_the_base_url_may_be_an_api_gateway_stage(server: Script, end: str) -> None:
    """However the address was pasted, every call goes below its /api/v1."""
    server.replies = [Reply(body={"server_status": "online"})]

    Client(f"{server.url}/prod{end}").metrics()

    assert server.asked[0].line == "GET /prod/api/v1/metrics"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://localhost", "http://", "http://[", "http://x?y=1"])
def test_an_address_that_is_none_is_refused_before_any_call(url: str) -> None:
    """A wrong setting is named at once and not reported as a server that is down."""
    with pytest.raises(ValueError, match="is not an http or https address"):
        Client(url)


def test_an_id_cannot_leave_its_place_in_the_path(server: Script) -> None:
    """Whatever is given as an id is asked for as an id."""
    server.replies = [Reply(body={"detail": "No task has this id."}, status=404)]

    with pytest.raises(ServerRefused, match="No task has this id"):
        Client(server.url).task("../metrics?x=1")
    assert server.asked[0].line == "GET /api/v1/tasks/..%2Fmetrics%3Fx%3D1"


def test_polls_come_when_retry_after_says(server: Script) -> None:
    """Each pause is the last answer's own: the server knows when it is worth asking."""
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
def test_a_senseless_retry_after_neither_hammers_nor_hangs(
    server: Script, retry_after: str | None, pause_s: float
) -> None:
    """A proxy's header cannot make the client spin, sleep for a day or fail."""
    server.replies = [Reply(body=task("Queued"), retry_after=retry_after)]

    assert Client(server.url).task("t1").pause_s == pause_s


def test_the_last_poll_happens_at_the_deadline(server: Script) -> None:
    """A long Retry-After does not outlast the caller's patience, and a late end is still seen."""
    clock = Clock()
    client = a_client(server.url, clock)
    server.replies = [
        Reply(body=task("Queued"), retry_after="8"),
        Reply(body=task("Planned"), retry_after="8"),
    ]

    assert statuses(client, client.task("t1"), timeout_s=10) == ["Planned", "Planned"]
    assert clock.slept == [8, 2]


def test_a_final_task_is_not_polled(server: Script) -> None:
    """Nothing changes a task after its end."""
    server.replies = [Reply(body=task("Cancelled"))]
    client = a_client(server.url, Clock())

    assert statuses(client, client.task("t1")) == []
    assert len(server.asked) == 1


def test_waiting_survives_a_server_that_starts_again(server: Script) -> None:
    """Tasks outlive the server's process, so the client's patience outlives a few failed polls."""
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


def test_a_server_that_stays_away_ends_the_waiting(server: Script) -> None:
    """Six failed polls in a row are an answer; the detail of the last one is told."""
    client = a_client(server.url, Clock())
    server.replies = [
        Reply(body=task("Queued")),
        Reply(body={"detail": "The store cannot be reached."}, status=503),
    ]

    with pytest.raises(ServerUnreachable, match="The store cannot be reached"):
        statuses(client, client.task("t1"))
    assert len(server.asked) == 1 + 6


def test_a_task_that_was_deleted_ends_the_waiting_at_once(server: Script) -> None:
    """Asking again for what is gone is of no use."""
    client = a_client(server.url, Clock())
    server.replies = [Reply(body=task("Queued")), Reply(body={"detail": "No task has this id."}, status=404)]

    with pytest.raises(ServerRefused):
        statuses(client, client.task("t1"))
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 429])
def test_a_4xx_is_a_refusal_with_the_servers_own_words(server: Script, status: int) -> None:
    """The sentence under `detail` was written for the caller."""
    server.replies = [Reply(body={"detail": "Unknown role 'X'."}, status=status)]

    with pytest.raises(ServerRefused, match=r"^Unknown role 'X'\.$"):
        Client(server.url).submit({"prompt": "x"})


def test_an_api_gateways_own_error_is_told_too(server: Script) -> None:
    """The gateway answers before the server does, and calls its sentence `message`."""
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
def test_what_is_not_an_llm_server_is_named_by_its_address(server: Script, reply: Reply) -> None:
    """Another program on the port, a proxy or a cut connection is one sentence and no traceback."""
    server.replies = [reply]

    with pytest.raises(ServerUnreachable, match=server.url):
        Client(server.url).task("t1")


def test_a_closed_port_is_unreachable_and_the_reason_is_short() -> None:
    """The reason is the system's word and not the objects of an HTTP library."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"

        with pytest.raises(ServerUnreachable) as caught:
            Client(url).metrics()

    assert str(caught.value) == f"No LLM-Server answers at {url}: Connection refused."
