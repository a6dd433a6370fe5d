"""The command that shows a task while it is carried out."""

import sys
from typing import Annotated

import typer

from llm_server.cli import display, task_display
from llm_server.cli.client import DEFAULT_URL, Client
from llm_server.cli.connection import Answer, ClientError
from llm_server.cli.options import (
    INTERRUPTED,
    NOT_FINAL,
    ApiKey,
    JsonOrText,
    TaskId,
    Url,
    checked_id,
    client_of,
    failures_as_exit_codes,
)
from llm_server.cli.watching.transcript import Transcript

TimeoutS = Annotated[
    float, typer.Option("--timeout", min=0, metavar="SECONDS", help="The longest time to watch the task.")
]


def watch(
    task_id: TaskId,
    timeout_s: TimeoutS = 86_400,
    url: Url = DEFAULT_URL,
    key: ApiKey = "",
    choice: JsonOrText = None,
) -> None:
    """Show what happens to a task, from its beginning until it is final.

    Prints the mode, the role, the plan, the steps and the engine calls; and their text as it comes, if the task was
    submitted with --stream. In a pipe, prints each event as a line of JSON. If the connection or the server is lost,
    connects again and goes on where it was, for up to 300 s without an event. Ctrl-C ends only the command.
    """
    client, task_id = client_of(url, key), checked_id(task_id)
    with failures_as_exit_codes():
        show(client, task_id, timeout_s=timeout_s, as_json=display.wants_json(choice))


def show(client: Client, task_id: str, *, timeout_s: float, as_json: bool) -> None:
    """Show a task's events until it is final, and end the command with the exit code for its status."""
    transcript = Transcript(_write)
    source = client.event_source(task_id, on_lost=_say_lost)
    try:
        for event in source.events(until=client.deadline(timeout_s)):
            if as_json:
                display.put_json(event)
            else:
                transcript.show(event)
    except KeyboardInterrupt:
        _say_how_to_go_on(client, task_id, transcript)
        raise typer.Exit(INTERRUPTED) from None
    except ClientError as error:
        if error.retryable:
            error.add_note(task_display.how_to_watch(task_id, client.base_url))
        raise
    finally:
        transcript.close()
    answer = client.task(task_id)
    if not answer.final:
        _say_how_to_go_on(client, task_id, transcript)
    elif not as_json:
        _show_end(answer, client, transcript)
    raise typer.Exit({"Completed": 0, "Failed": 1, "Cancelled": 1}.get(answer.status, NOT_FINAL))


def _show_end(answer: Answer, client: Client, transcript: Transcript) -> None:
    """Show the result, unless it was shown as it came, and what the task used."""
    result = str(answer.document.get("result") or "")
    was_shown = bool(result) and transcript.answer.strip() == result.strip()
    task_display.show_task(answer, client.base_url, as_json=False, has_shown_result=was_shown)


def _say_how_to_go_on(client: Client, task_id: str, transcript: Transcript) -> None:
    transcript.close()
    display.say(task_display.how_to_watch(task_id, client.base_url))


def _say_lost(sentence: str) -> None:
    display.say(f"{sentence} Connecting again.", dim=True)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
