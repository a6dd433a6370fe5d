"""Find GGUF files on this machine, by a path or by the name of a model in the catalogue."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from llm_server.orchestration.domain.engines.catalog import CONTEXT_OF_FILE, LocalModel
from llm_server.orchestration.domain.errors import ConfigurationError

_MAGIC = b"GGUF"


class ModelFile(NamedTuple):
    """The path of a model file, which may not exist yet, and `context`: the most tokens of prompt and answer together.

    `to_pull` is the model's name in the catalogue, or "" for the user's own file. `known` are all names there.
    """

    path: Path
    context: int
    to_pull: str
    known: tuple[str, ...]


def path_of(name: str, model: LocalModel, models_dir: Path) -> Path:
    """Return the path of a pulled model. Its name contains the checksum, so a changed model has another path."""
    return models_dir / f"{name}-{model.sha256[:12]}.gguf"


def part_of(name: str, model: LocalModel, models_dir: Path) -> Path:
    """Return the path of a model's file while it is incomplete or its checksum is not verified."""
    return path_of(name, model, models_dir).with_suffix(".part")


def size_bytes(path: Path) -> int:
    """Return the size of a file; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def in_package(model: LocalModel) -> Path | None:
    """Return the file of a model in an installed Python package; None if no such package is installed.

    The package is not imported.
    """
    if model.packaged is None:
        return None
    package, _, name = model.packaged.partition("/")
    found = importlib.util.find_spec(package)
    folders = found.submodule_search_locations if found else None
    paths = [Path(folder) / name for folder in folders or ()]
    return next((path for path in paths if size_bytes(path) == model.size_bytes), None)


def locate(model: str, models: Mapping[str, LocalModel], models_dir: Path) -> ModelFile:
    """Return the file of `model`, a name in the catalogue or a path; a leading `~` is the home folder.

    A file in an installed package comes before a pulled one.
    """
    known = tuple(models)
    if model in models:
        path = in_package(models[model]) or path_of(model, models[model], models_dir)
        return ModelFile(path, models[model].context, model, known)
    return ModelFile(Path(os.path.expanduser(model)), CONTEXT_OF_FILE, "", known)


def demonstration_model(models: Mapping[str, LocalModel], models_dir: Path) -> str | None:
    """Return the name of the demonstration model if it can run here; None if its file or llama.cpp is missing."""
    if importlib.util.find_spec("xllamacpp") is None:
        return None
    names = (name for name, model in models.items() if model.demonstration)
    return next((name for name in names if locate(name, models, models_dir).path.is_file()), None)


def require(file: ModelFile, *, named_by: str) -> None:
    """Check that the file exists and is a GGUF file; `named_by` is the setting that names it.

    Raises:
        ConfigurationError: the file is missing or not a model; the message says how to get it, or what is allowed.
    """
    try:
        with file.path.open("rb") as opened:
            magic = opened.read(len(_MAGIC))
    except OSError as error:
        if file.to_pull:
            advice = f"run `llm-server models pull {file.to_pull}`"
            raise ConfigurationError(f"{named_by} is {file.to_pull!r}, which was not pulled yet; {advice}.") from error
        allowed = f"a GGUF file that can be read, or one of {', '.join(file.known)}"
        raise ConfigurationError(f"{named_by} is {str(file.path)[:200]!r}; allowed is {allowed}.") from error
    if magic != _MAGIC:
        raise ConfigurationError(f"{named_by} is {str(file.path)[:200]!r}, which is not a GGUF file.")
