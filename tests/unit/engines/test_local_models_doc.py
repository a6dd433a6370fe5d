"""The examples in docs/local-models.md are valid configuration, and its list is what the command prints."""

import re
import tomllib
from importlib.resources import files
from pathlib import Path

from llm_server.orchestration.configuration import catalog_file

DOC = (Path(__file__).parents[3] / "docs" / "local-models.md").read_text(encoding="utf-8")
PACKAGED = tomllib.loads(files("llm_server").joinpath("data/catalog.toml").read_text(encoding="utf-8"))


def test_the_examples_are_read() -> None:
    overlay = tomllib.loads("\n".join(re.findall(r"```toml\n(.*?)```", DOC, re.DOTALL)))
    loaded = catalog_file.load(PACKAGED, overlay)

    assert loaded.engines["laptop"].kind == "llamacpp"
    assert loaded.engines["laptop"].model in loaded.models
    assert "mine" in loaded.models


def test_the_list_is_that_of_the_catalogue() -> None:
    listed = re.findall(
        r"^(\S+) +([\d,]+) MB  (\S+) +not pulled(?: \(demonstration: often wrong\))?$", DOC, re.MULTILINE
    )
    models = catalog_file.load(PACKAGED).models

    assert listed == [(name, f"{m.size_bytes / 1e6:,.0f}", m.licence) for name, m in models.items()]
