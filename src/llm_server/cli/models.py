"""The commands for models: `list`, and `pull`, which is the only code that downloads a model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_server.cli import display

if TYPE_CHECKING:
    from llm_server.orchestration.domain.engines.catalog import Catalog, LocalModel

_FAILED, _WRONG, _INTERRUPTED = 1, 2, 130
_EXIT_CODES = """
Exit codes:

\b
  0    the model is on this machine
  1    the download failed
  2    the model is not known
  130  interrupted with Ctrl-C; the next pull continues
"""

app = typer.Typer(
    help="List and download small LLMs that run in the server's process.\n\n"
    "Such a model answers if no other engine is configured or found; see docs/local-models.md.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(name="list")
def list_models() -> None:
    """List the models that can be downloaded, with size, licence and whether they are on this machine."""
    with _failures_as_exit_codes():
        catalog, folder = _configured()
        for name, model in catalog.models.items():
            size = f"{model.size_bytes / 1e6:,.0f} MB"
            display.put(f"{name:<20} {size:>9}  {model.licence:<14} {_state(name, model, folder)}{_remark(model)}")
        display.say(f"Models are stored in {folder}.", dim=True)


@app.command(epilog=_EXIT_CODES)
def pull(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="A name that models list prints.")] = None,
) -> None:
    """Download a model and print the path of its file. Without NAME, list the models.

    Continues a download that was interrupted. If the file is complete, only its checksum is verified.
    """
    if name is None:
        list_models()
        return
    with _failures_as_exit_codes():
        from llm_server.engines.local import model_download
        from llm_server.engines.local.model_files import in_package
        from llm_server.orchestration.domain.errors import UnknownName

        catalog, folder = _configured()
        if name not in catalog.models:
            raise UnknownName("model", name, catalog.models)
        model = catalog.models[name]
        if installed := in_package(model):
            display.put(str(installed))
            display.say("The model is installed as a package.")
            return
        display.say(f"{name}: {model.size_bytes / 1e6:,.0f} MB, {model.licence}, from {model.url}")
        with display.download_bar(name, model.size_bytes) as show:
            path = model_download.pull(name, model, folder, show=show)
        display.put(str(path))
        display.say(
            f"The checksum is correct. To use the model: make run MODEL={name}, or "
            f"LLM_SERVER_MODEL={name} llm-server serve"
        )


def _configured() -> "tuple[Catalog, Path]":
    from llm_server import catalog_loading
    from llm_server.settings import Settings

    settings = Settings.read()
    return catalog_loading.configured_catalog(settings), settings.models_dir


def _state(name: str, model: "LocalModel", folder: Path) -> str:
    from llm_server.engines.local.model_files import in_package, part_of, path_of, size_bytes

    if in_package(model):
        return "installed"
    if path_of(name, model, folder).exists():
        return "pulled"
    arrived = size_bytes(part_of(name, model, folder))
    return f"{arrived * 100 // model.size_bytes} % pulled" if arrived else "not pulled"


def _remark(model: "LocalModel") -> str:
    return " (demonstration: often wrong)" if model.demonstration else ""


@contextmanager
def _failures_as_exit_codes() -> Iterator[None]:
    from llm_server.orchestration.domain.errors import DownloadFailed, LLMServerError

    try:
        yield
    except LLMServerError as error:
        display.say(str(error))
        raise typer.Exit(_FAILED if isinstance(error, DownloadFailed) else _WRONG) from None
    except KeyboardInterrupt:
        display.say("Interrupted. The part that was downloaded is kept; the next pull continues it.")
        raise typer.Exit(_INTERRUPTED) from None
