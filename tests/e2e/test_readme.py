"""The README is short, and its engine file is valid. Its calls are made by tests/demonstration."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from llm_server import catalog_loading
from llm_server.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_engine_file_of_the_readme_is_valid(tmp_path: Path) -> None:
    [toml] = re.findall(r"```toml\n(.+?)```", README, re.DOTALL)
    path = tmp_path / "engines.toml"
    path.write_text(toml)
    catalog = catalog_loading.load_catalog(Settings(config=path)).catalog

    assert set(tomllib.loads(toml)["engines"]) < set(catalog.engines)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150
