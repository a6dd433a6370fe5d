"""Run the examples of a docs page as a reader types them: in order, in one shell, with one server.

A `console` block holds commands (`$ ...`) and their output; a `json` block after it is an excerpt of the last answer.
An id that the page shows is replaced by the id of the real answer. `make run` starts the server; other `make` targets
are skipped. A TOML block that begins with a file name is written to that file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from support.server_process import RunningServer, serving

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(console|json|toml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN = re.compile(r"((?:[A-Z_]+=\S+ )*)make run\b")
MAKE = re.compile(r"(?:[A-Z_]+=\S+ )*make\b")
CHANGING = re.compile(r" -d | -X |llm-server")
"""A command that matches may change something, so it is typed only once."""
PATIENCE_S = 20
CHANGES = re.compile(
    r"_(?:at|ms|id|token)$|^(?:hash|etag|tokens_per_second|average_response_time|spent_microusd|day|token)$"
)
"""Fields whose values differ from run to run."""
END = "__end_of_command__"


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """A command and the lines that the page shows below it."""

    command: str
    shown: str


@dataclass(slots=True, kw_only=True)
class Reader:
    """A shell in an empty folder, and the server that it calls.

    `replaced` maps texts of the page to the texts that are typed instead.
    """

    folder: Path
    replaced: dict[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    server: RunningServer | None = None
    _command: str = ""
    _is_refused: bool = False
    _printed: str = ""
    _until: ExitStack = field(default_factory=ExitStack)
    _shell: subprocess.Popen[str] | None = None

    def __enter__(self) -> Reader:
        tools = self.folder / "bin"
        tools.mkdir()
        curl = tools / "curl"
        curl.write_text(f'#!/bin/sh\nexec {shutil.which("curl")} --fail-with-body "$@"\n')
        curl.chmod(0o755)
        path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LLM_SERVER_")}
        self._shell = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env={**kept, "PATH": path, **self.env},
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._shell is not None
        self._shell.kill()
        self._shell.communicate()
        self._until.close()

    def read(self, page: str) -> list[str]:
        """Type every command of a page; return the commands that were run.

        Raises AssertionError if a command fails or an answer differs from the page.
        """
        typed = []
        for kind, text in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
            if kind == "json":
                self._hold_to([json.loads(text)])
            elif kind == "toml" and (name := re.match(r"# (\S+\.toml)\n", text)):
                (self.folder / name[1]).write_text(self._meant(text))
            elif kind == "console":
                for one in commands(text):
                    self._type(one)
                    typed.append(one.command)
        return typed

    def _type(self, typed: Typed) -> None:
        command = self._meant(typed.command)
        if run := RUN.match(command):
            self._start(dict(pair.split("=", 1) for pair in run[1].split()))
        elif not MAKE.match(command):
            self._command, self._is_refused = command, typed.shown.startswith('{"detail"')
            self._printed = self._run(command, is_refused=self._is_refused)
            self._hold_to([json.loads(line) for line in typed.shown.splitlines() if line.startswith("{")])

    def _hold_to(self, answers: list[Any]) -> None:
        """Compare the last answer with the page.

        Reads are repeated for a while, because the task may be in progress.
        """
        is_read = not CHANGING.search(self._command) and not self._is_refused
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                for answer in answers:
                    self._compare(answer)
                return
            except AssertionError:
                if not is_read or time.monotonic() > end:
                    raise
            time.sleep(0.1)
            self._printed = self._run(self._command, is_refused=False)

    def _start(self, env: Mapping[str, str]) -> None:
        self._until.close()
        settings = {name: str(self.folder / value) if name.endswith("CONFIG") else value for name, value in env.items()}
        database = self.folder / ".llm-server" / "tasks.db"
        database.parent.mkdir(exist_ok=True)
        self.server = self._until.enter_context(serving(database, env={**self.env, **settings}))
        self.replaced["http://localhost:8000"] = self.server.url
        self._run(f"export LLM_SERVER_URL={self.server.url}", is_refused=False)

    def _run(self, command: str, *, is_refused: bool) -> str:
        assert self._shell is not None
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{command}\nprintf '\\n{END} %s\\n' $?\n")
        self._shell.stdin.flush()
        printed = ""
        for line in self._shell.stdout:
            if line.startswith(END):
                code = int(line.split()[1])
                assert bool(code) is is_refused, f"{command}\nended with {code}:\n{printed}"
                return printed.strip()
            printed += line
        raise AssertionError(f"the shell ended after {command}")

    def _meant(self, text: str) -> str:
        for shown, meant in self.replaced.items():
            text = text.replace(shown, meant)
        return text

    def _compare(self, shown: Any) -> None:
        """Compare the last answer with an excerpt of it, and remember its ids."""
        answer = json.loads(next(line for line in reversed(self._printed.splitlines()) if line.startswith("{")))
        for path, expected, actual in differences(shown, answer):
            if isinstance(expected, str) and isinstance(actual, str) and CHANGES.search(path.rpartition(".")[2]):
                self.replaced[expected] = actual
            else:
                raise AssertionError(
                    f"{self._command}: {path} is {actual!r}, the page shows {expected!r}\n{self._printed[:2000]}"
                )


def commands(block: str) -> Iterator[Typed]:
    """Yield the commands of a console block, each with the output that is shown for it."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        ends = re.search(r"(?<!\\)\n|$", part)
        assert ends is not None
        yield Typed(command=re.sub(r"\s+# .*$", "", part[: ends.start()]), shown=part[ends.end() :])


def differences(shown: Any, actual: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the differences between an answer and an excerpt of it. Fields may be missing; lists must be complete."""
    if isinstance(shown, dict) and isinstance(actual, dict):
        for name, value in shown.items():
            yield from differences(value, actual.get(name, "(nothing)"), f"{path}.{name}")
    elif isinstance(shown, list) and isinstance(actual, list) and len(shown) == len(actual):
        for number, (left, right) in enumerate(zip(shown, actual, strict=True)):
            yield from differences(left, right, f"{path}.{number}")
    elif shown != actual and not _both_are_measured(shown, actual, path):
        yield path, shown, actual


def _both_are_measured(shown: Any, actual: Any, path: str) -> bool:
    are_numbers = isinstance(shown, int | float) and isinstance(actual, int | float)
    return are_numbers and CHANGES.search(path.rpartition(".")[2]) is not None
