"""docs/architecture.md is up to date: every room is on the map, and everything it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "llm_server"
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
ROOMS = sorted(str(file.parent.relative_to(PACKAGE)) for file in PACKAGE.rglob("__init__.py") if file.parent != PACKAGE)
MODULES = sorted({*re.findall(r"`([a-z_/]+\.py)\b", MAP)})
NAMED = sorted({*re.findall(r"`([a-z_/]+\.py):([A-Za-z_.]+)`", MAP)})
MAX_MODULES = 16
"""Of one room."""


@cache
def _names(module: str) -> set[str]:
    """What a module defines: functions, classes, and `Class.method`."""
    tree = ast.parse((PACKAGE / module).read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{method.name}" for method in methods}
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_on_the_map(room: str) -> None:
    assert f"| `{room}` |" in MAP


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_docstring_of_one_sentence(room: str) -> None:
    said = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")))

    assert said is not None
    assert "\n" not in said
    assert said.endswith(".")


@pytest.mark.parametrize("room", [".", *ROOMS])
def test_no_room_has_too_many_modules(room: str) -> None:
    assert len(list((PACKAGE / room).glob("*.py"))) <= MAX_MODULES


@pytest.mark.parametrize("module", MODULES)
def test_every_module_on_the_map_exists(module: str) -> None:
    assert (ROOT / module).is_file() or any(PACKAGE.rglob(module))


@pytest.mark.parametrize(("module", "name"), NAMED)
def test_every_function_on_the_map_exists(module: str, name: str) -> None:
    assert name in _names(module)


def test_storage_keys_are_spelled_in_storage_only() -> None:
    """Other rooms use the kind, step and number of an output's key."""
    spelled = re.compile(r"""["'](?:PLAN["']|(?:STEP|DRAFT|VERDICT|RES|TRY)#)""")
    found = [
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if spelled.search(file.read_text(encoding="utf-8")) and file.relative_to(PACKAGE).parts[0] != "storage"
    ]

    assert found == []
