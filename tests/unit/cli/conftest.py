"""A scripted server that the commands call."""

from collections.abc import Iterator

import pytest

from support.scripted_server import Script, scripted_server


@pytest.fixture
def server() -> Iterator[Script]:
    with scripted_server() as script:
        yield script
