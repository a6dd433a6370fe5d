"""The command `llm-server`: its subcommands in the order in which `--help` lists them."""

from pathlib import Path
from typing import Annotated

import typer

from llm_server import __version__
from llm_server.cli import backup, display, engines, keys, migrate, models, submit, tasks, tenants
from llm_server.cli.options import (
    CALL_EXIT_CODES,
    DECISION_EXIT_CODES,
    REFUSED,
    TASK_EXIT_CODES,
    JsonOrText,
    text_of,
)
from llm_server.cli.watching import watch
from llm_server.settings import MAX_WORKERS

_ROUTE_EXIT_CODES = """
Exit codes:

\b
  0    success
  2    wrong usage, or a server would refuse the task; the message says why
"""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # prints usage errors as plain lines, which programs can read, too
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=TASK_EXIT_CODES,
)


def _print_version(requested: bool) -> None:
    if requested:
        display.put(f"llm-server {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run LLM-Server, a task server for LLMs, and send tasks to it.

    serve starts a server; submit sends it a task and prints the answer. Commands call the server at --url or
    LLM_SERVER_URL, by default http://localhost:8000.

    list, metrics, engines, route, keys list and submit --dry-run print text on a terminal, and JSON in a pipe or a
    file; --text and --json override this; so do watch and submit --stream, with a line for each event. submit and get
    print the answer as text, unless --json is given.
    """


app.command(epilog=TASK_EXIT_CODES)(submit.submit)
app.command(epilog=TASK_EXIT_CODES)(submit.get)
app.command(epilog=TASK_EXIT_CODES)(watch.watch)
app.command(name="list", epilog=CALL_EXIT_CODES)(tasks.list_tasks)
app.command(epilog=DECISION_EXIT_CODES)(tasks.approve)
app.command(epilog=DECISION_EXIT_CODES)(tasks.reject)
app.command(epilog=CALL_EXIT_CODES)(tasks.cancel)
app.command(epilog=CALL_EXIT_CODES)(tasks.retry)
app.command(epilog=CALL_EXIT_CODES)(tasks.delete)
app.command(epilog=CALL_EXIT_CODES)(engines.metrics)
app.command(epilog=CALL_EXIT_CODES)(engines.engines)


@app.command(epilog=_ROUTE_EXIT_CODES)
def route(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The text of a task, or - to read standard input.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Choose a role of this profile.")] = None,
    role: Annotated[str | None, typer.Option(help="The role that carries out the task.")] = None,
    labelled: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Measure the decisions on a file of labelled prompts in JSON lines.",
        ),
    ] = None,
    choice: JsonOrText = None,
) -> None:
    """Print how a server would carry out a task, and why.

    Needs no running server, and uses the same settings as a server, such as LLM_SERVER_CONFIG. Prints the engine that
    would be called first if every engine is available; switches that were changed on a running server have no effect
    here. Prints the same fields as submit --dry-run.

    With --eval, prints how often the decisions match the labels of a file, always as text; see docs/analysis.md. The
    labels may name roles of your configuration.
    """
    from llm_server.cli import route as routing  # imported here, so that the other commands start faster
    from llm_server.orchestration.domain.errors import LLMServerError

    if (prompt is None) == (labelled is None):
        raise typer.BadParameter("Give either a prompt or --eval FILE.", param_hint="PROMPT")
    try:
        if labelled:
            for line in routing.evaluation(labelled, profile):
                display.put(line)
        else:
            decision = routing.decision(text_of(prompt or ""), profile, role)
            display.show_decision(decision, display.wants_json(choice))
    except routing.UnreadableRows as error:
        raise typer.BadParameter(str(error), param_hint="--eval") from None
    except LLMServerError as error:
        display.say(str(error))
        raise typer.Exit(REFUSED) from None


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="PORT", min=0, max=65535, help="Port to listen on; 0 chooses a free port.")
    ] = 8000,
    db: Annotated[
        Path | None,
        typer.Option(
            help="SQLite file, created if it does not exist.  [default: LLM_SERVER_DB, or .llm-server/tasks.db]"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MAX_WORKERS,
            help="The most tasks to carry out at the same time.  [default: LLM_SERVER_WORKERS, or what the engines'"
            " max_concurrency allows]",
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="First stop the server that uses the same SQLite file, if there is one.")
    ] = False,
) -> None:
    """Start a server on this machine, with one SQLite file.

    It serves the HTTP API and carries out the tasks until you press Ctrl-C. Without API keys, only this machine can
    call it.
    If the server cannot start, the message says why, and the exit code is 1.
    """
    from llm_server.embedded import server  # imported here, so that the other commands start faster

    raise typer.Exit(server.serve(host=host, port=port, db=db, workers=workers, replaces=replace))


app.command(epilog=migrate.EXIT_CODES)(migrate.migrate)
app.command(epilog=backup.BACKUP_EXIT_CODES)(backup.backup)
app.command(epilog=backup.RESTORE_EXIT_CODES)(backup.restore)
app.add_typer(models.app, name="models")
app.add_typer(keys.app, name="keys")
app.add_typer(tenants.app, name="tenants")
