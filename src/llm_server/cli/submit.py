"""The commands that wait for a task's answer: submit and get."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from llm_server.cli import display, task_display
from llm_server.cli.client import DEFAULT_URL, MAX_HOLD_S, Client
from llm_server.cli.connection import Answer, ClientError
from llm_server.cli.options import (
    INTERRUPTED,
    NOT_FINAL,
    ApiKey,
    AsJson,
    Metadata,
    Prompt,
    Source,
    TaskId,
    TimeoutS,
    Url,
    attachments_of,
    checked_id,
    client_of,
    failures_as_exit_codes,
    pairs_of,
    text_of,
    without_unset,
    words_of,
)
from llm_server.cli.watching import watch

_SHORT_HOLD_S = 2  # soon shows the status, and that a plan waits for approval, at the price of more calls


def submit(
    prompt: Prompt,
    profile: Annotated[str | None, typer.Option(help="Choose a role of this profile.")] = None,
    role: Annotated[
        str | None, typer.Option(help="The role that carries out the task. By default the server chooses.")
    ] = None,
    mode: Annotated[str | None, typer.Option(help="Chat, Agent or Plan. By default the server chooses.")] = None,
    engine: Annotated[str | None, typer.Option(help="The only engine that may be called.")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="The most that the task may cost, in USD.")] = None,
    deadline_s: Annotated[
        float | None, typer.Option(help="The task fails if it is not final after this many seconds.")
    ] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(help="The most tokens in the answer of one engine call.")
    ] = None,
    source: Source = None,
    metadata: Metadata = None,
    after: Annotated[
        str | None, typer.Option("--after", metavar="TASK_ID", help="Follow this Completed task, as its next turn.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            exists=True,
            dir_okay=False,
            readable=True,
            help="A PNG, JPEG, GIF or WebP file to send with the prompt; may be repeated.",
        ),
    ] = None,
    plan_approval: Annotated[
        bool,
        typer.Option(
            "--plan-approval", help="In Plan mode, carry the plan out only after it is approved (see approve)."
        ),
    ] = False,
    priority: Annotated[
        str | None,
        typer.Option(help="interactive or batch: batch tasks come after interactive ones. [default: interactive]"),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the task's id and do not wait.")] = False,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream", help="Show the task's events, and the text of its engine calls as it comes (see watch)."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print how the task would be carried out; create no task.")
    ] = False,
    timeout_s: TimeoutS = 600,
    url: Url = DEFAULT_URL,
    key: ApiKey = "",
    choice: Annotated[
        bool | None,
        typer.Option(
            "--json/--text",
            help="Print the server's JSON document or text.  [default: text; --dry-run in a pipe or a file: JSON]",
        ),
    ] = None,
) -> None:
    """Submit a task, wait for it to end, and print its answer.

    If its plan waits for approval, print the commands that approve and reject it, and stop waiting.

    The answer is printed to standard output, and everything else to standard error.
    """
    limits = {
        "max_cost_usd": max_cost_usd,
        "deadline_s": deadline_s,
        "max_output_tokens": max_output_tokens,
        "sources": words_of(source),
    }
    fields = {"profile": profile, "role": role, "mode": mode, "engine": engine, "limits": without_unset(limits)}
    others = {
        "plan_approval": plan_approval or None,
        "stream": stream or None,
        "priority": priority,
        "metadata": pairs_of(metadata),
        "previous_task_id": after,
        "attachments": attachments_of(image),
    }
    task = {"prompt": text_of(prompt), **without_unset(fields | others)}
    client = client_of(url, key)
    with failures_as_exit_codes():
        if dry_run:
            display.show_decision(client.decide(task).document, display.wants_json(choice))
        elif stream and not no_wait:
            task_id = client.submit(task).task_id
            display.say(f"Task {task_id}", dim=True)
            watch.show(client, task_id, timeout_s=timeout_s, as_json=display.wants_json(choice))
        elif no_wait:
            task_display.show_accepted(client.submit(task), client.base_url, bool(choice))
        else:
            is_short = plan_approval or sys.stderr.isatty()
            hold_s = int(min(timeout_s, _SHORT_HOLD_S if is_short else MAX_HOLD_S))
            answer = _watched(client, lambda: client.submit(task, hold_s=hold_s), timeout_s)
            _finish(client, _in_full(client, answer), bool(choice))


def get(
    task_id: TaskId,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the task is final or its plan waits for approval.")
    ] = False,
    timeout_s: TimeoutS = 600,
    url: Url = DEFAULT_URL,
    key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Print a task's answer, or say why the task has no answer yet.

    The answer is printed to standard output, and everything else to standard error.
    """
    client, task_id = client_of(url, key), checked_id(task_id)
    with failures_as_exit_codes():
        if wait:
            answer = _watched(client, lambda: client.task(task_id), timeout_s, task_id)
        else:
            answer = client.task(task_id)
        _finish(client, answer, as_json)


def _watched(client: Client, first: Callable[[], Answer], timeout_s: float, task_id: str = "") -> Answer:
    """Make the first call, then follow the task until it is final, waits for approval or times out; show its state."""
    until = client.deadline(timeout_s)
    try:
        with display.spinner(task_display.state) as show:
            answer = first()
            task_id = answer.task_id
            show(answer.document)
            for newer in client.follow(answer, until=until):
                show(newer.document)
                answer = newer
    except KeyboardInterrupt:
        display.say(task_display.how_to_get(task_id, client.base_url))
        raise typer.Exit(INTERRUPTED) from None
    except ClientError as error:
        if task_id and error.retryable:
            error.add_note(task_display.how_to_get(task_id, client.base_url))
        raise
    return answer


def _in_full(client: Client, answer: Answer) -> Answer:
    """Read the task in full if the answer has only the four fields of POST; if that fails, return the answer."""
    if "receipt" in answer.document:
        return answer
    try:
        return client.task(answer.task_id)
    except ClientError:
        return answer


def _finish(client: Client, answer: Answer, as_json: bool) -> None:
    task_display.show_task(answer, client.base_url, as_json)
    raise typer.Exit({"Completed": 0, "Failed": 1, "Cancelled": 1}.get(answer.status, NOT_FINAL))
