"""GGUF files on this machine: a path, or a model of the catalogue once it has been pulled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from llm_server.orchestration.domain.catalog import LocalModel
from llm_server.orchestration.domain.errors import ConfigurationError

CONTEXT = 8_192
_MAGIC = b"GGUF"


class ModelFile(NamedTuple):
    """Where a model's file is or will be, and how many tokens its prompt and answer share.

    `to_pull` is the model's name in the catalogue, "" for the user's own file. `known` are all names in the catalogue.
    """

    path: Path
    context: int
    to_pull: str
    known: tuple[str, ...]


def path_of(name: str, model: LocalModel, models_dir: Path) -> Path:
    """Where a pulled model is kept; the checksum is in the name, so that another file is never taken for it."""
    return models_dir / f"{name}-{model.sha256[:12]}.gguf"


def part_of(name: str, model: LocalModel, models_dir: Path) -> Path:
    """Where a model is kept until all of it is there and right."""
    return path_of(name, model, models_dir).with_suffix(".part")


def size_bytes(path: Path) -> int:
    """0 for a file that is not there."""
    return path.stat().st_size if path.exists() else 0


def named(model: str, models: Mapping[str, LocalModel], models_dir: Path) -> ModelFile:
    """The file that a setting or an engine names: a model of the catalogue, else a path; `~` is the home folder."""
    known = tuple(models)
    if model in models:
        return ModelFile(path_of(model, models[model], models_dir), models[model].context, model, known)
    return ModelFile(Path(os.path.expanduser(model)), CONTEXT, "", known)


def require(file: ModelFile, *, named_by: str) -> None:
    """Check that the file is there and looks like a model; `named_by` is the setting that named it.

    Raises:
        ConfigurationError: it is missing or not a model; the sentence says how to get it, or what is allowed.
    """
    try:
        with file.path.open("rb") as opened:
            magic = opened.read(len(_MAGIC))
    except OSError as error:
        if file.to_pull:
            advice = f"`llm-server models pull {file.to_pull}` fetches it"
            raise ConfigurationError(f"{named_by} is {file.to_pull!r}, which was not pulled yet; {advice}.") from error
        allowed = f"a GGUF file that can be read, or one of {', '.join(file.known)}"
        raise ConfigurationError(f"{named_by} is {str(file.path)[:200]!r}; allowed is {allowed}.") from error
    if magic != _MAGIC:
        raise ConfigurationError(f"{named_by} is {str(file.path)[:200]!r}, which is no GGUF file.")
