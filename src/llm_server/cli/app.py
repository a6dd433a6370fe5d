"""The command line: submit a task, read one, read the figures, switch engines, serve, make keys, or pull a model."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llm_server.cli import display
from llm_server.cli import keys as keys_cli
from llm_server.cli import migrate as migrate_cli
from llm_server.cli import models as models_cli
from llm_server.cli.client import DEFAULT_URL, MAX_HOLD_S, Answer, Client, ClientError, ServerRefused

_EXIT_CODES = """
Exit codes:

\b
  0    done
  1    the task Failed or was Cancelled
  2    wrong usage, or the server refused what was asked (it says why)
  3    no server answers, or it is broken
  4    the task is not final yet (--timeout ended, or get without --wait)
  130  interrupted while waiting; the task goes on
"""
_SWITCHES: dict[str, dict[str, bool | None]] = {
    "on": {"toggle": True},
    "off": {"toggle": False},
    "lock": {"locked": True},
    "unlock": {"locked": False},
    "reset": {"toggle": None, "locked": None},
}
_ENGINES_HELP = """Print the server's engines, or switch one: in every process within 5 s, until it is switched again.

\b
  on, off       use it, or not; calls that run, end
  lock, unlock  keep it from being used, switched on or not; or no longer
  reset         take both back: what the configuration says holds again
"""
_WATCHED_HOLD_S = 2  # for somebody who watches, the status and the task's id are worth another call

app = typer.Typer(
    help="The task server between your programs and your LLMs.\n" + _EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a wrong option is one plain line, for people and for programs
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models_cli.app, name="models")
app.add_typer(keys_cli.app, name="keys")

Url = Annotated[str, typer.Option("--url", envvar="LLM_SERVER_URL", help="Where the server is.")]
ApiKey = Annotated[str, typer.Option("--key", envvar="LLM_SERVER_API_KEY", help="An API key; better not typed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's JSON document as it came.")]
TaskId = Annotated[str, typer.Argument(help="The id that submit named.")]
TimeoutS = Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Wait no longer than this.")]


@app.command(help="Submit a prompt, wait, and print the answer.\n" + _EXIT_CODES)
def submit(
    prompt: Annotated[str, typer.Argument(help="What is to be done; - reads it from stdin.")],
    profile: Annotated[str | None, typer.Option(help="Choose a role inside this profile.")] = None,
    role: Annotated[str | None, typer.Option(help="Who does it; left out, the server decides.")] = None,
    mode: Annotated[str | None, typer.Option(help="Chat, Agent or Plan; left out, the server decides.")] = None,
    engine: Annotated[str | None, typer.Option(help="Use this configured engine and no other.")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="Spend at most this.")] = None,
    deadline_s: Annotated[float | None, typer.Option(help="Let the server give up after this.")] = None,
    max_output_tokens: Annotated[int | None, typer.Option(help="Longest answer of an engine.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A label; repeatable.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the task's id and leave.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how it would be done.")] = False,
    timeout_s: TimeoutS = 600,
    url: Url = DEFAULT_URL,
    key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    limits = {"max_cost_usd": max_cost_usd, "deadline_s": deadline_s, "max_output_tokens": max_output_tokens}
    fields = {"profile": profile, "role": role, "mode": mode, "engine": engine, "limits": _given(limits)}
    task = {"prompt": _text(prompt), **_given(fields | {"metadata": _pairs(metadata or [])})}
    client = _client(url, key)
    with _failures_as_exit_codes():
        if dry_run:
            display.show_decision(client.decide(task), as_json)
        elif no_wait:
            display.show_accepted(client.submit(task), client.base_url, as_json)
        else:
            hold_s = int(min(timeout_s, _WATCHED_HOLD_S if sys.stderr.isatty() else MAX_HOLD_S))
            answer = _watched(client, lambda: client.submit(task, hold_s=hold_s), timeout_s)
            _finish(client, _in_full(client, answer), as_json)


@app.command(help="Print a task's answer.\n" + _EXIT_CODES)
def get(
    task_id: TaskId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the task is final.")] = False,
    timeout_s: TimeoutS = 600,
    url: Url = DEFAULT_URL,
    key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    client = _client(url, key)
    task_id = _id(task_id)
    with _failures_as_exit_codes():
        if wait:
            answer = _watched(client, lambda: client.task(task_id), timeout_s, task_id)
        else:
            answer = client.task(task_id)
        _finish(client, answer, as_json)


@app.command(help="Cancel a task that is not final.\n" + _EXIT_CODES)
def cancel(task_id: TaskId, url: Url = DEFAULT_URL, key: ApiKey = "", as_json: AsJson = False) -> None:
    client = _client(url, key)
    with _failures_as_exit_codes():
        display.show_change(client.cancel(_id(task_id)), as_json)


@app.command(help="Take a Failed task up again; finished steps are kept.\n" + _EXIT_CODES)
def retry(task_id: TaskId, url: Url = DEFAULT_URL, key: ApiKey = "", as_json: AsJson = False) -> None:
    client = _client(url, key)
    with _failures_as_exit_codes():
        display.show_change(client.retry(_id(task_id)), as_json)


@app.command(help="Delete a task that no worker has: prompt, result and record.\n" + _EXIT_CODES)
def delete(task_id: TaskId, url: Url = DEFAULT_URL, key: ApiKey = "") -> None:
    client = _client(url, key)
    with _failures_as_exit_codes():
        client.delete(_id(task_id))
        display.say(f"Task {task_id} is deleted.")


@app.command(help="Print the server's nine figures.\n" + _EXIT_CODES)
def metrics(url: Url = DEFAULT_URL, key: ApiKey = "", as_json: AsJson = False) -> None:
    client = _client(url, key)
    with _failures_as_exit_codes():
        display.show_metrics(client.metrics(), as_json)


@app.command(help=_ENGINES_HELP + _EXIT_CODES)
def engines(
    switch: Annotated[
        Literal["on", "off", "lock", "unlock", "reset"] | None,
        typer.Argument(metavar="SWITCH", help="on, off, lock, unlock or reset."),
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The engine to switch.")] = None,
    url: Url = DEFAULT_URL,
    key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    if switch and not name:
        raise typer.BadParameter("Say which engine.", param_hint="NAME")
    client = _client(url, key)
    with _failures_as_exit_codes():
        if switch and name:
            display.show_engine(name, client.switch_engine(name, _SWITCHES[switch]), as_json)
        else:
            display.show_engines(client.engines(), as_json)


@app.command()
def route(
    prompt: Annotated[str | None, typer.Argument(help="What is to be done; - reads it from stdin.")] = None,
    profile: Annotated[str | None, typer.Option(help="Choose a role inside this profile.")] = None,
    role: Annotated[str | None, typer.Option(help="Who does it, if that is settled.")] = None,
    measured: Annotated[
        Path | None, typer.Option("--eval", metavar="FILE", exists=True, dir_okay=False, help="Labelled JSON lines.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the decision as JSON.")] = False,
) -> None:
    """Say how a server with this LLM_SERVER_CONFIG would do a prompt and why, or how well a file's prompts are decided.

    Needs no server.
    """
    from llm_server.cli import route as routing  # the client commands start without the analysis
    from llm_server.orchestration.domain.errors import LLMServerError

    if (prompt is None) == (measured is None):
        raise typer.BadParameter("Give a prompt, or --eval FILE.", param_hint="PROMPT")
    try:
        for line in (
            routing.report(routing.rows_of(measured))
            if measured
            else routing.decision(_text(prompt or ""), profile, role, as_json)
        ):
            typer.echo(line)
    except routing.UnreadableRows as error:
        raise typer.BadParameter(str(error), param_hint="--eval") from None
    except LLMServerError as error:
        display.say(str(error))
        raise typer.Exit(2) from None


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="PORT", min=0, max=65535, help="Port to listen on.")] = 8000,
    db: Annotated[Path | None, typer.Option(help="SQLite file; made when it is not there.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Tasks carried out at the same time.")] = None,
) -> None:
    """Serve the API and carry out its tasks in this process, on SQLite."""
    from llm_server.embedded import server  # the client commands start without everything a server imports

    raise typer.Exit(server.serve(host=host, port=port, db=db, workers=workers))


app.command(help=migrate_cli.HELP)(migrate_cli.migrate)


def _client(url: str, key: str) -> Client:
    if not key.isascii() or not key.isprintable():
        raise typer.BadParameter("It is none that a server gave out.", param_hint="--key")
    try:
        return Client(url, key=key)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url") from None


def _id(task_id: str) -> str:
    if not task_id.strip():
        raise typer.BadParameter("It is empty.", param_hint="TASK_ID")
    return task_id


def _text(prompt: str) -> str:
    """Return the prompt, read from stdin for `-`."""
    try:
        text = sys.stdin.buffer.read().decode() if prompt == "-" else prompt
        text.encode()  # an argument's undecodable bytes arrive as lone surrogates
    except UnicodeError:
        raise typer.BadParameter("It is not UTF-8 text.", param_hint="PROMPT") from None
    return text


def _pairs(metadata: list[str]) -> dict[str, str]:
    for pair in metadata:
        if "=" not in pair:
            raise typer.BadParameter(f"{pair!r} is not of the form key=value.", param_hint="--metadata")
    return {key: value for key, _, value in (pair.partition("=") for pair in metadata)}


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what was not said, so that the server's own defaults hold."""
    return {name: value for name, value in fields.items() if value not in (None, {})}


@contextmanager
def _failures_as_exit_codes() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        for line in (str(error), *getattr(error, "__notes__", ())):
            display.say(line)
        raise typer.Exit(2 if isinstance(error, ServerRefused) else 3) from None


def _watched(client: Client, first: Callable[[], Answer], timeout_s: float, task_id: str = "") -> Answer:
    """Make the first call, then follow the task to its end or the time-out, showing its state meanwhile."""
    until = client.deadline(timeout_s)
    try:
        with display.spinner() as show:
            answer = first()
            task_id = answer.task_id
            show(answer.document)
            for newer in client.follow(answer, until=until):
                show(newer.document)
                answer = newer
    except KeyboardInterrupt:
        display.say(display.how_to_get(task_id, client.base_url))
        raise typer.Exit(130) from None
    except ClientError as error:
        if task_id and error.retryable:
            error.add_note(display.how_to_get(task_id, client.base_url))
        raise
    return answer


def _in_full(client: Client, answer: Answer) -> Answer:
    """Read what POST, with its four fields, does not say; an answer in hand is not lost when that fails."""
    if not answer.final or "receipt" in answer.document:
        return answer
    try:
        return client.task(answer.task_id)
    except ClientError:
        return answer


def _finish(client: Client, answer: Answer, as_json: bool) -> None:
    display.show_task(answer, client.base_url, as_json)
    raise typer.Exit({"Completed": 0, "Failed": 1, "Cancelled": 1}.get(answer.status, 4))
