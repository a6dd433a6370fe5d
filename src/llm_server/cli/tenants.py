"""The `tenants` commands. They open the database directly, like those for keys."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from llm_server.cli import display
from llm_server.cli.options import NOT_FINAL, REFUSED, Db, TimeoutS, database_settings

if TYPE_CHECKING:
    from llm_server.orchestration.tasks.tenant_deletion import TenantDeleted
    from llm_server.settings import Settings

EXIT_CODES = """
Exit codes:

\b
  0  nothing of the tenant is left, except what the message names; or there was nothing
  2  wrong usage; nothing was deleted, and the message says why
  3  the database cannot be reached; give the command again
  4  workers still have tasks of the tenant, or servers may still accept its keys; give the command again
130  Ctrl-C; the keys may be revoked already; give the command again
"""

app = typer.Typer(
    help="Delete all data of a tenant from the server's database: the SQLite file, or the DynamoDB table that "
    "LLM_SERVER_TABLE names. A server may be running.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _tenants() -> None:
    """Keep `delete` a subcommand, although it is the only one."""


@app.command(epilog=EXIT_CODES)
def delete(
    tenant: Annotated[str, typer.Argument(metavar="NAME", help="The tenant, as its API keys name it.")],
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without this option, nothing is deleted.")] = False,
    timeout: TimeoutS = 300,
    db: Db = None,
) -> None:
    """Delete a tenant's tasks, prompts, answers, Idempotency-Keys, daily spending and API keys for ever.

    Its keys are revoked first and its open tasks are cancelled. If servers are running, the command waits until they
    have noticed that, which takes up to a minute, and for workers that carry out one of the tasks. Totals over all
    tenants stay as they are. docs/data.md says what else stays, such as backups.
    """
    from llm_server import substrates

    if not yes:
        display.say(f"This deletes everything of tenant {tenant}, for ever. To do it, add --yes.")
        raise typer.Exit(REFUSED)
    with database_settings(db) as settings, substrates.tenant_deletion_of(settings) as deletion:
        if deletion.is_served:
            display.say("Servers may be running: the command waits up to a minute until they refuse the keys.")
        deleted = deletion.delete(tenant, timeout_s=timeout)
        if deleted.is_nothing:
            display.put(f"The database has nothing of tenant {tenant}. Is the name right?")
            return
        display.put(_deleted(tenant, deleted))
        if not deleted.is_complete:
            display.say(_unfinished(tenant, deleted.erased.in_use))
            raise typer.Exit(NOT_FINAL)
        for line in _stays(settings, is_served=deletion.is_served):
            display.say(line)


def _deleted(tenant: str, deleted: "TenantDeleted") -> str:
    erased = deleted.erased
    parts = (
        (erased.tasks, "task"),
        (erased.conversations, "conversation"),
        (erased.idempotency_keys, "Idempotency-Key"),
        (erased.days_of_spending, "daily total"),
        (deleted.keys, "API key"),
    )
    return f"Deleted for tenant {tenant}: {', '.join(display.counted(number, noun) for number, noun in parts)}."


def _unfinished(tenant: str, in_use: int) -> str:
    cause = f"workers have {display.counted(in_use, 'task')}" if in_use else "servers may accept its keys for a minute"
    return f"Not all of {tenant} is deleted: {cause}. Its keys are revoked. Give the command again."


def _stays(settings: "Settings", *, is_served: bool) -> Iterator[str]:
    yield "These stay: the ids of its tasks, with its name, for 2 days; the totals of all tenants."
    if settings.on_aws:
        yield "Not deleted: point-in-time backups (35 days), messages and dead letters (ids), logs (ids)."
    else:
        yield f"Not deleted: your backups, and copies beside the file ({settings.db.name}.v*.backup)."
        if is_served:
            yield (
                "Unused bytes of the file may hold parts of texts while a server is running. To write it anew, stop "
                "the server and give the command again."
            )
