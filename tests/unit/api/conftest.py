"""Servers to call: the real app on a real service, SQLite and the embedded engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_server.orchestration.domain.ports.store import Store
from support.in_process_server import CalledServer, called_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[CalledServer]:
    with called_server(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CalledServer]:
    """Yield one server for all tests of a module; these tests must not leave tasks or settings behind."""
    with called_server(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def server_on(tmp_path: Path) -> Iterator[Callable[[Store], CalledServer]]:
    """Yield a function that starts a server on another store, such as one that fails."""
    with called_server(tmp_path) as usual:
        yield usual.on
