"""The commands that list and change tasks: list, approve, reject, cancel, retry and delete."""

import sys
from typing import Annotated

import typer

from llm_server.cli import display, task_display
from llm_server.cli.client import DEFAULT_URL, Client
from llm_server.cli.options import (
    NOT_FINAL,
    REFUSED,
    ApiKey,
    AsJson,
    JsonOrText,
    TaskId,
    Url,
    checked_id,
    client_of,
    failures_as_exit_codes,
    pairs_of,
    time_of,
    without_unset,
)

_TIME_HELP = "An RFC 3339 time, such as 2026-10-01T12:00:00Z, or a date (midnight UTC)."

PlanHash = Annotated[
    str | None,
    typer.Option(
        "--plan-hash", metavar="HASH", help="Decide on the plan with this hash, without showing it or asking."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def list_tasks(
    status: Annotated[
        list[str] | None, typer.Option(help="Only tasks with this status; may be given several times.")
    ] = None,
    role: Annotated[str | None, typer.Option(help="Only tasks of this role.")] = None,
    mode: Annotated[str | None, typer.Option(help="Only tasks in this mode: Chat, Agent or Plan.")] = None,
    engine: Annotated[str | None, typer.Option(help="Only tasks that this engine answered.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only tasks with this label; if given several times, with all of them."),
    ] = None,
    created_from: Annotated[str | None, typer.Option(metavar="TIME", help=f"Created at or after. {_TIME_HELP}")] = None,
    created_to: Annotated[
        str | None, typer.Option(metavar="TIME", help="Created before this time, in the same format.")
    ] = None,
    awaiting_approval: Annotated[
        bool | None,
        typer.Option(
            "--awaiting-approval/--not-awaiting-approval",
            help="Only tasks whose plan waits for approval, or only all other tasks.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The most tasks to print.")] = 50,
    url: Url = DEFAULT_URL,
    key: ApiKey = "",
    choice: JsonOrText = None,
) -> None:
    """List tasks, newest first.

    Prints one task a line; the JSON document is {"tasks": [...]}.
    """
    times = {
        "created_from": time_of(created_from, "--created-from"),
        "created_to": time_of(created_to, "--created-to"),
    }
    approval = None if awaiting_approval is None else display.word(awaiting_approval)
    single = {"role": role, "mode": mode, "engine": engine, "awaiting_approval": approval}
    filters = [
        *(("status", each) for each in status or ()),
        *without_unset(single | times).items(),
        *((f"metadata.{name}", value) for name, value in pairs_of(metadata).items()),
    ]
    client = client_of(url, key)
    with failures_as_exit_codes():
        listed = client.tasks(filters, limit=limit)
    task_display.show_tasks(listed.tasks, display.wants_json(choice))
    if listed.more:
        display.say(f"There may be more tasks; --limit {limit * 2} shows more.", dim=True)
    elif not listed.tasks:
        display.say("No tasks match the filters." if filters else "There are no tasks.")


def approve(
    task_id: TaskId,
    plan_hash: PlanHash = None,
    max_cost_usd: Annotated[
        float | None,
        typer.Option(help="The most that the task may cost from now on, in USD, what it has cost so far included."),
    ] = None,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Show a plan that waits for approval, ask for confirmation, and approve it.

    The server then carries the plan out. A plan waits if its task was submitted with --plan-approval.
    """
    client, task_id = client_of(url, key), checked_id(task_id)
    with failures_as_exit_codes():
        plan_hash = plan_hash or _agreed(client, task_id, "Approve this plan?", yes)
        task_display.show_change(client.approve(task_id, plan_hash, max_cost_usd), as_json)


def reject(
    task_id: TaskId,
    plan_hash: PlanHash = None,
    yes: Yes = False,
    url: Url = DEFAULT_URL,
    key: ApiKey = "",
    as_json: AsJson = False,
) -> None:
    """Show a plan that waits for approval, ask for confirmation, reject it, and so cancel its task."""
    client, task_id = client_of(url, key), checked_id(task_id)
    with failures_as_exit_codes():
        plan_hash = plan_hash or _agreed(client, task_id, "Reject this plan and cancel the task?", yes)
        task_display.show_change(client.reject(task_id, plan_hash), as_json)


def cancel(task_id: TaskId, url: Url = DEFAULT_URL, key: ApiKey = "", as_json: AsJson = False) -> None:
    """Cancel a task that is not final."""
    client = client_of(url, key)
    with failures_as_exit_codes():
        task_display.show_change(client.cancel(checked_id(task_id)), as_json)


def retry(task_id: TaskId, url: Url = DEFAULT_URL, key: ApiKey = "", as_json: AsJson = False) -> None:
    """Start a Failed task again; finished steps are kept."""
    client = client_of(url, key)
    with failures_as_exit_codes():
        task_display.show_change(client.retry(checked_id(task_id)), as_json)


def delete(task_id: TaskId, url: Url = DEFAULT_URL, key: ApiKey = "") -> None:
    """Delete a task with its prompt and its result.

    A task that is not final is cancelled first. The server refuses to delete a task while a worker has it.
    """
    client = client_of(url, key)
    with failures_as_exit_codes():
        client.delete(checked_id(task_id))
        display.say(f"Task {task_id} is deleted.")


def _agreed(client: Client, task_id: str, question: str, yes: bool) -> str:
    """Show the plan that waits, ask unless `yes`, and return its hash; end the command if the user declines."""
    task = client.task(task_id).document
    if not task.get("awaiting_approval") or not task.get("plan"):
        display.say(f"Task {task_id} has no plan that waits for approval; it is {task.get('status')}.")
        raise typer.Exit(REFUSED)
    task_display.show_plan(task)
    if not yes and not _confirmed(question):
        display.say("You declined, so the plan still waits for approval. To decide without this question, use --yes.")
        raise typer.Exit(NOT_FINAL)
    return str(task["plan"]["hash"])


def _confirmed(question: str) -> bool:
    """Ask on stderr, so that stdout has only the result; standard input that has ended means no."""
    display.say(f"{question} [y/N]")
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
