"""Seeded bugs: each is put into a copy of the project, and the attack must find it. `make mutants` runs this."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("src", "tests", "tools", "events", "data", "template.yaml", "pyproject.toml")
SLOW = ("test_storm", "test_killed_server", "test_killed_calls", "test_stuck_database", "test_broken_off")
"""These start processes; they take longer and would catch no other bug."""
LEFT_OUT = (*SLOW, "test_mutants")
"""`test_mutants` compares the code with the seeded bugs, so it would find any of them."""
AT_ONCE = os.cpu_count() or 1
_CAUGHT = re.compile(r"^FAILED tests/faults/(.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug: `old`, which occurs once in `file`, becomes `new`. `first` are the tests most likely to find it."""

    name: str
    file: str
    old: str
    new: str
    first: str = "test_every_call"


_SQLITE = "src/llm_server/storage/sqlite"
_SQLITE_STORE = f"{_SQLITE}/store.py"
_DYNAMODB = "src/llm_server/storage/dynamodb/store.py"
_TASK = "src/llm_server/orchestration/domain/task.py"
_ORCHESTRATION = "src/llm_server/orchestration"
_GUARDED = 'writes = [self._put_state(after, "rev = :rev", {":rev": items.number(before.rev)})]'
_WRITTEN_BY_ADD = "            return True\n\n        return self._database.write(work)\n"
_TELL = "self._database.after_commit(partial(self._on_end, after, task_rows.result(db, after, output)))"
_WRITTEN_BY_SAVE = f"""            if after.status.is_final and self._on_end is not None:
                {_TELL}
            self._tell_change(after.ref)
            return True

        if not self._database.write(work, after.line):
            raise TaskLost(after.task_id)
"""
_COMMITTED = """            if is_clean:
                self._latest.before_commit(self.connection)
                self.connection.execute("COMMIT")
                self._failures.file.check()  # or the next start would not find what is acknowledged now
"""
_NOT_COMMITTED = """        except sqlite3.Error as error:
            self._latest.forget()
            self._roll_back()
            self._fail(group, error)
            return []
"""
_ACKNOWLEDGED = """        if is_clean:
            self._latest.committed()
            for command in group:
                _finish(command)
            return []
"""
_COUNT_APART = """
            for count in self._counts({before}, {after}):
                writing(partial(self._client.update_item, **count["Update"]))"""

MUTANTS = (
    Mutant(
        "no revision guard, DynamoDB", _DYNAMODB, _GUARDED, 'writes = [self._put_state(after, "attribute_exists(pk)")]'
    ),
    Mutant(
        "no revision guard, SQLite",
        f"{_SQLITE}/task_rows.py",
        "        if not holds(db, before):\n            return False\n",
        "        if body(db, before.ref) is None:\n            return False\n",
    ),
    Mutant(
        "finish not conditional",
        _DYNAMODB,
        _GUARDED,
        'guard = ("attribute_exists(pk)", None) if after.status.is_final else ("rev = :rev", {":rev": '
        "items.number(before.rev)})\n        writes = [self._put_state(after, *guard)]",
    ),
    Mutant(
        "counter outside the transaction at create, SQLite",
        _SQLITE_STORE,
        f"            counters.count(db, None, task)\n{_WRITTEN_BY_ADD}",
        "            return True\n\n        if is_new := self._database.write(work):\n"
        "            self._database.write(lambda db: counters.count(db, None, task))\n        return is_new\n",
    ),
    Mutant(
        "counter outside the transaction at finish, SQLite",
        _SQLITE_STORE,
        f"            counters.count(db, before, after)\n{_WRITTEN_BY_SAVE}",
        f"{_WRITTEN_BY_SAVE}        self._database.write(lambda db: counters.count(db, before, after))\n",
    ),
    Mutant(
        "finish not conditional, SQLite",
        f"{_SQLITE}/task_rows.py",
        "        if not holds(db, before):\n            return False\n",
        "        if not holds(db, before) and not (after.status.is_final and body(db, before.ref)):\n"
        "            return False\n",
    ),
    Mutant(
        "tenant not in the key, SQLite",
        f"{_SQLITE}/task_rows.py",
        'query = "SELECT body FROM tasks WHERE (tenant, task_id) = (?, ?)"',
        "query = \"SELECT body FROM tasks WHERE ? <> '' AND task_id = ?\"",
        "test_tenants",
    ),
    Mutant(
        "no claim condition",
        _TASK,
        "if self.status.is_active and now_ms < self.lease_ms:\n            raise TaskBusy",
        "if False:\n            raise TaskBusy",
        "test_races",
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
        "self._transact([*writes, *self._counts(before, after, max_in_flight=max_in_flight)])",
        "self._transact(writes)" + _COUNT_APART.format(before="before", after="after"),
    ),
    Mutant(
        "no sweep",
        f"{_ORCHESTRATION}/tasks/sweep.py",
        "            woken += self._look_at_all(until_ms, may_continue)\n",
        "            woken += 0\n",
    ),
    Mutant(
        "sweep does not wake the tasks whose engine is back",
        f"{_ORCHESTRATION}/tasks/sweep.py",
        "returned_ms = self._stored_return_ms()",
        "returned_ms = 0",
        "test_long_waits",
    ),
    Mutant(
        "calls that timed out are repeated blindly",
        f"{_ORCHESTRATION}/dispatch/window.py",
        'if had_enough or (attempt.source == "api" and timeouts[engine] >= MAX_TIMEOUTS):',
        "if not had_enough and timeouts[engine] < 0:",
        "test_long_waits",
    ),
    Mutant(
        "sweep sends although another one has",
        f"{_ORCHESTRATION}/tasks/sweep.py",
        "if not self._store.postpone(due, task, self._next_look_ms(task)) or needs_no_message:",
        "self._store.postpone(due, task, self._next_look_ms(task))\n        if needs_no_message:",
        "test_long_waits",
    ),
    Mutant(
        "sweep takes its own messages for others'",
        f"{_ORCHESTRATION}/tasks/sweep.py",
        "self._wakeups.waiting() - sent",
        "self._wakeups.waiting()",
        "test_long_waits",
    ),
    Mutant(
        "lease longer than visibility",
        "template.yaml",
        "QueueVisibility: 1080",
        "QueueVisibility: 100",
        "test_long_waits",
    ),
    Mutant(
        "stored answer not adopted",
        f"{_ORCHESTRATION}/execution/orchestrator.py",
        "if snapshot.orphan:",
        "if task is None:",
    ),
    Mutant(
        "claims not counted", _TASK, "deliveries=self.deliveries + 1,", "deliveries=self.deliveries,", "test_poison"
    ),
    Mutant(
        "suspects taken together",
        f"{_ORCHESTRATION}/tasks/worker.py",
        "if not self._suspect_turn.acquire(blocking=False):",
        "if self._suspect_turn.acquire(blocking=False) is None:",
        "test_poison",
    ),
    Mutant(
        "tenant not in the key, DynamoDB",
        "src/llm_server/storage/dynamodb/items.py",
        'return f"T#{ref.tenant}#{ref.task_id}"',
        'return f"T#local#{ref.task_id}"',
        "test_tenants",
    ),
    Mutant(
        "tenant not in the Idempotency-Key, DynamoDB",
        "src/llm_server/storage/dynamodb/idempotency.py",
        'f"IDEM#{tenant}#{sha256(',
        'f"IDEM##{sha256(',
        "test_tenants",
    ),
    Mutant(
        "idempotency off, DynamoDB",
        "src/llm_server/storage/dynamodb/idempotency.py",
        '"attribute_not_exists(pk) OR #until <= :now"',
        '"attribute_not_exists(pk) OR #until <> :now"',
        "test_idempotency",
    ),
    Mutant(
        "idempotency off, SQLite",
        f"{_SQLITE}/idempotency.py",
        "if earlier := bound(",
        "if not db and bound(",
        "test_idempotency",
    ),
    Mutant(
        "reservation not conditional, DynamoDB",
        "src/llm_server/storage/dynamodb/api_keys.py",
        "attribute_not_exists(#named) AND (attribute_not_exists(microusd) OR microusd <= :most)",
        "attribute_not_exists(#named) AND (attribute_not_exists(microusd) OR microusd <> :most)",
        "test_budget",
    ),
    Mutant(
        "reservation not conditional, SQLite",
        f"{_SQLITE}/api_keys.py",
        "if microusd > max_microusd - charges.charged_microusd:",
        "if microusd > max_microusd:",
        "test_budget",
    ),
    Mutant(
        "reservation sent twice is charged twice",
        "src/llm_server/storage/dynamodb/api_keys.py",
        '"attribute_not_exists(#named) AND (attribute_not_exists(microusd) OR microusd <= :most)"',
        '"attribute_not_exists(microusd) OR microusd <= :most"',
        "test_budget",
    ),
    Mutant(
        "cancel not conditional, DynamoDB",
        _DYNAMODB,
        _GUARDED,
        'guard = ("attribute_exists(pk)", None) if after.status == "Cancelled" else ("rev = :rev", {":rev": '
        "items.number(before.rev)})\n        writes = [self._put_state(after, *guard)]",
        "test_lifecycle",
    ),
    Mutant(
        "cancel not conditional, SQLite",
        f"{_SQLITE}/task_rows.py",
        "        if not holds(db, before):\n            return False\n",
        '        if not holds(db, before) and not (after.status == "Cancelled" and body(db, before.ref)):\n'
        "            return False\n",
        "test_lifecycle",
    ),
    Mutant(
        "what a cancelled task's worker paid is forgotten",
        f"{_ORCHESTRATION}/tasks/worker.py",
        "        if lost:\n            self._settlement.settle(claimed.task, tuple(unsaved))",
        "        if lost:\n            return",
        "test_lifecycle",
    ),
    Mutant(
        "what a cancelled task's dead worker paid is forgotten",
        f"{_ORCHESTRATION}/tasks/worker.py",
        "if left := snapshot.unsettled(now_ms):",
        "if (left := snapshot.unsettled(now_ms)) and not self:",
        "test_lifecycle",
    ),
    Mutant(
        "calls that a dead worker announced are not booked",
        f"{_ORCHESTRATION}/tasks/worker.py",
        "before, lost = snapshot.task, snapshot.lost(now_ms)",
        "before, lost = snapshot.task, None",
        "test_receipts",
    ),
    Mutant(
        "failover not announced",
        f"{_ORCHESTRATION}/tasks/claimed_task.py",
        "if len(calls) > 1 or len(pending) != 1:",
        "if len(calls) > 1:\n            return True\n        if len(pending) != 1:",
        "test_receipts",
    ),
    Mutant(
        "calls made before the lost one are not announced",
        f"{_ORCHESTRATION}/dispatch/calls.py",
        "terms.announce((*terms.earlier, *after, announced))",
        "terms.announce((*after, announced))",
        "test_earlier_calls",
    ),
    Mutant(
        "what a dead worker reserved is not withheld",
        f"{_ORCHESTRATION}/dispatch/key_budget.py",
        "self._ledger.withhold(self._account, self._claim)",
        "assert self._claim",
        "test_withheld_money",
    ),
    Mutant(
        "deletion that broke off is not taken up",
        f"{_ORCHESTRATION}/tasks/sweep.py",
        "                        self._store.purge(due.ref)\n",
        "                        pass\n",
        "test_lifecycle",
    ),
    Mutant(
        "an engine that is not allowed is asked",
        f"{_ORCHESTRATION}/dispatch/calls.py",
        "if not terms.allowed.admits(engine, self._catalog.engines[engine].source):",
        "if terms.allowed.admits(engine, self._catalog.engines[engine].source) and not engine:",
        "test_sources",
    ),
    Mutant(
        "a task widens the sources of its key",
        f"{_ORCHESTRATION}/tasks/engine_limits.py",
        "limits=replace(new.limits, sources=sources)",
        "limits=replace(new.limits, sources=own or of_key)",
        "test_sources",
    ),
    Mutant(
        "a retry by another key widens the sources",
        f"{_ORCHESTRATION}/domain/task.py",
        "return common(self.sources, payer.limits.sources if payer else None)",
        "return payer.limits.sources if payer else None",
        "test_sources",
    ),
    Mutant(
        "a later claim forgets the sources",
        f"{_ORCHESTRATION}/domain/snapshot.py",
        "AllowedEngines(engine=self.request.engine, sources=self.request.limits.sources)",
        "AllowedEngines(engine=self.request.engine)",
        "test_sources",
    ),
    Mutant(
        "acknowledged before the commit",
        f"{_SQLITE}/connections/writer.py",
        _COMMITTED + _NOT_COMMITTED + _ACKNOWLEDGED,
        "            if is_clean:\n                for command in group:\n                    _finish(command)\n"
        '                self.connection.execute("COMMIT")\n                return []\n' + _NOT_COMMITTED,
        "test_group_commit",
    ),
    Mutant(
        "failed commit acknowledged",
        f"{_SQLITE}/connections/writer.py",
        f"{_COMMITTED}{_NOT_COMMITTED}",
        f"{_COMMITTED}        except sqlite3.Error:\n            self._roll_back()\n",
        "test_group_commit",
    ),
    Mutant(
        "metrics miss a task that is acknowledged",
        f"{_SQLITE}/connections/writer.py",
        _ACKNOWLEDGED,
        "        if is_clean:\n            for command in group:\n                _finish(command)\n"
        "            self._latest.committed()\n            return []\n",
        "test_group_commit",
    ),
    Mutant(
        "metrics count what is not committed",
        f"{_SQLITE}/connections/latest_read.py",
        "self._uncommitted = now_s, self._read(connection)",
        "self._known = self._uncommitted = now_s, self._read(connection)",
        "test_group_commit",
    ),
    Mutant(
        "failed command keeps what it has written",
        f"{_SQLITE}/connections/writer.py",
        "return self.connection.total_changes == before",
        "return self.connection.total_changes >= before",
        "test_group_commit",
    ),
    Mutant(
        "message sent before the commit",
        "src/llm_server/storage/memory_queue.py",
        "self._after_commit(partial(self._put, Message(ref, priority), visible_ms))",
        "self._put(Message(ref, priority), visible_ms)",
        "test_group_commit",
    ),
    Mutant(
        "callers told before the commit",
        _SQLITE_STORE,
        _TELL,
        "self._on_end(after, task_rows.result(db, after, output))",
        "test_group_commit",
    ),
    Mutant(
        "a triage that was lost is asked for again",
        f"{_ORCHESTRATION}/domain/snapshot.py",
        "return not any(output.attempts for output in self.outputs.values())",
        "return True",
        "test_triaged",
    ),
    Mutant(
        "the answer is asked for before the decision is stored",
        f"{_ORCHESTRATION}/execution/orchestrator.py",
        "                yield Progress(task=claim.task, output=triaged.output, foreseen=foreseen)\n",
        "                del foreseen\n",
        "test_triaged",
    ),
    Mutant(
        "the call of a triage is not on the receipt",
        f"{_ORCHESTRATION}/domain/task.py",
        "            profile=profile,\n            receipt=self.receipt.plus(output.attempts),\n",
        "            profile=profile,\n",
        "test_triaged",
    ),
    Mutant(
        "text is not stored before the state that follows it",
        f"{_ORCHESTRATION}/tasks/claimed_task.py",
        "        for _ in range(MAX_FLUSHES):\n            if text.flush():\n",
        "        for _ in range(MAX_FLUSHES):\n            if text:\n",
        "test_struck_streams",
    ),
    Mutant(
        "text gets the numbers of an earlier state",
        f"{_ORCHESTRATION}/events/text_stream.py",
        "            self._rev, self._place = rev, event_numbers.TEXT\n",
        "            self._place = event_numbers.TEXT\n",
        "test_struck_streams",
    ),
    Mutant(
        "the text of a claim whose time is over is dropped",
        f"{_ORCHESTRATION}/tasks/worker.py",
        "(self._clock() > until_ms and self._has_ended(ref))",
        "self._clock() > until_ms",
        "test_struck_streams",
    ),
)


def main(names: list[str]) -> int:
    """Attack the unchanged copy, which must pass, then each mutant whose name contains one of the given words."""
    chosen = [None, *(m for m in MUTANTS if not names or any(name in m.name for name in names))]
    escaped, began = list[str](), time.monotonic()
    print(f"{'mutant':50} {'s':>5}  caught by", flush=True)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for mutant, (caught, took_s) in zip(chosen, pool.map(attacked, chosen), strict=True):
            name = mutant.name if mutant else "(none)"
            print(f"{name:50} {took_s:>5.0f}  {caught or '-'}", flush=True)
            if bool(caught) is not bool(mutant):
                escaped.append(name)
    print(f"not as it should be: {', '.join(escaped)}" if escaped else "all caught", end="")
    print(f" in {time.monotonic() - began:.0f} s")
    return 1 if escaped else 0


def attacked(mutant: Mutant | None) -> tuple[str | None, float]:
    """Return the first test that fails on a copy of the project with the bug, and how long that took."""
    began = time.monotonic()
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
        first = [f"tests/faults/{mutant.first}.py"] if mutant else []
        rest = [
            "tests/faults",
            *(f"--ignore=tests/faults/{name}.py" for name in LEFT_OUT),
            *(f"--ignore={f}" for f in first),
        ]
        caught = (_first_failure(copy, first) if first else None) or _first_failure(copy, rest)
    return caught, time.monotonic() - began


def _first_failure(copy: Path, tests: list[str]) -> str | None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", "-x", *tests],
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
    """Put the bug into the file; raise ValueError if the code to replace is not there exactly once."""
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: found {text.count(mutant.old)} times in {mutant.file}: {mutant.old!r}")
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
