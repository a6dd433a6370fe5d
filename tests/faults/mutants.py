"""Seeded bugs: each is put into a copy of the project, and the attack must raise the alarm. `make mutants` runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("src", "tests", "tools", "events", "data", "template.yaml", "pyproject.toml")
ATTACK = ("tests/faults", "--ignore=tests/faults/test_storm.py", "--ignore=tests/faults/test_killed_server.py")
"""The quick part in one process; the processes take longer and would catch no other bug."""
_CAUGHT = re.compile(r"^FAILED tests/faults/(.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug: `old` stands exactly once in `file` and becomes `new`."""

    name: str
    file: str
    old: str
    new: str


_DYNAMODB = "src/llm_server/storage/dynamodb.py"
_TASK = "src/llm_server/orchestration/task.py"
_ORCHESTRATION = "src/llm_server/orchestration"
_GUARDED = 'writes = [self._put_state(after, "rev = :rev", {":rev": items.number(before.rev)})]'
_COUNT_APART = """
            for count in self._counts({before}, {after}):
                writing(partial(self._client.update_item, **count["Update"]))"""

MUTANTS = (
    Mutant(
        "no revision guard, DynamoDB", _DYNAMODB, _GUARDED, 'writes = [self._put_state(after, "attribute_exists(pk)")]'
    ),
    Mutant(
        "no revision guard, SQLite",
        "src/llm_server/storage/sqlite.py",
        "if stored is None or stored.rev != before.rev:",
        "if stored is None:",
    ),
    Mutant(
        "finish not conditional",
        _DYNAMODB,
        _GUARDED,
        'guard = ("attribute_exists(pk)", None) if after.status.is_final else ("rev = :rev", {":rev": '
        "items.number(before.rev)})\n        writes = [self._put_state(after, *guard)]",
    ),
    Mutant(
        "no claim condition",
        _TASK,
        "if self.status.is_active and now_ms < self.lease_ms:\n            raise TaskBusy",
        "if False:\n            raise TaskBusy",
    ),
    Mutant(
        "counter outside the transaction at create",
        _DYNAMODB,
        'self._transact([self._put_state(task, "attribute_not_exists(pk)"), *self._counts(None, task)])',
        'self._transact([self._put_state(task, "attribute_not_exists(pk)")])'
        + _COUNT_APART.format(before="None", after="task"),
    ),
    Mutant(
        "counter outside the transaction at finish",
        _DYNAMODB,
        "self._transact([*writes, *self._counts(before, after)])",
        "self._transact(writes)" + _COUNT_APART.format(before="before", after="after"),
    ),
    Mutant(
        "no sweep",
        f"{_ORCHESTRATION}/sweep.py",
        "        woken, waiting = 0, None\n",
        "        return 0\n        woken, waiting = 0, None\n",
    ),
    Mutant(
        "sweep sends although another one has",
        f"{_ORCHESTRATION}/sweep.py",
        "if not self._store.postpone(due, doubled_ms) or merely_waiting:",
        "self._store.postpone(due, doubled_ms)\n        if merely_waiting:",
    ),
    Mutant(
        "sweep takes its own messages for others'",
        f"{_ORCHESTRATION}/sweep.py",
        "self._wakeups.waiting() - woken",
        "self._wakeups.waiting()",
    ),
    Mutant("lease longer than visibility", "template.yaml", "VisibilityTimeout: 1080", "VisibilityTimeout: 100"),
    Mutant("stored answer not adopted", f"{_ORCHESTRATION}/orchestrator.py", "if snapshot.orphan:", "if task is None:"),
    Mutant("claims not counted", _TASK, "deliveries=self.deliveries + 1,", "deliveries=self.deliveries,"),
    Mutant(
        "suspects taken together",
        f"{_ORCHESTRATION}/worker.py",
        "with self._suspects if snapshot.task.is_suspect(now_ms=self._clock()) else nullcontext():",
        "with nullcontext():",
    ),
)


def main(names: list[str]) -> int:
    """Attack the unchanged copy, which must stand, then each mutant whose name holds one of the words given."""
    escaped = []
    print(f"{'mutant':44} {'s':>5}  caught by", flush=True)
    for mutant in (None, *MUTANTS):
        if mutant and names and not any(name in mutant.name for name in names):
            continue
        began = time.monotonic()
        caught = attacked(mutant)
        name = mutant.name if mutant else "(none)"
        print(f"{name:44} {time.monotonic() - began:>5.0f}  {caught or '-'}", flush=True)
        if bool(caught) is not bool(mutant):
            escaped.append(name)
    print(f"not as it should be: {', '.join(escaped)}" if escaped else "all caught")
    return 1 if escaped else 0


def attacked(mutant: Mutant | None) -> str | None:
    """The first test that fails on a copy of the project with the bug in it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in NEEDED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy2(source, copy / name)
        if mutant:
            _bitten(copy / mutant.file, mutant)
        run = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "-x", *ATTACK],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if run.returncode not in (0, 1):
        raise RuntimeError(f"the attack could not be run:\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}")
    caught = _CAUGHT.search(run.stdout)
    return caught[1] if caught else None


def _bitten(file: Path, mutant: Mutant) -> None:
    """Raises ValueError when the code has moved: a mutant that changes nothing proves nothing."""
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: found {text.count(mutant.old)} times in {mutant.file}: {mutant.old!r}")
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
