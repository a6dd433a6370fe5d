"""The entry point of the command line."""

from __future__ import annotations

import sys

import pytest

from llm_server.__main__ import INTERRUPTED, main


class Interrupted:
    """A finder of modules that is interrupted when the command line is imported."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "llm_server.cli.app":
            raise KeyboardInterrupt


def test_ctrl_c_during_the_start_prints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The imports take half a second, and a traceback of them helps no user."""
    monkeypatch.delitem(sys.modules, "llm_server.cli.app", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == INTERRUPTED == 130
