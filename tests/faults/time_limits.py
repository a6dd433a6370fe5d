"""How long the attack may take: each test, and the whole of it, by its own wall clock."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
TEST_S, LONG_TEST_S = 300, 600
"""Of a test alone, where it does not say otherwise: on a busy machine one takes many times as long."""
QUICK_S, WHOLE_S = 4 * 60, 25 * 60
"""Of the quick part, which is in `make test`, and of `make attack`."""
UNTIMED = "ATTACK_UNTIMED"
"""Set it where the machine is busy with other things: the whole may then take as long as it likes."""


class TimeLimits:
    """Fails the session when the attack took too long; only one that ran all of the folder can tell.

    With pytest-xdist it is the controller that tells: it hears of every test.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._most_s = self._limit_s(config)
        self._began_s, self._ended_s = float("inf"), 0.0

    @property
    def took_s(self) -> float:
        """From the start of the first test to the end of the last."""
        return max(0.0, self._ended_s - self._began_s)

    @property
    def is_over(self) -> bool:
        return self.took_s > self._most_s

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if FOLDER in item.path.parents and not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(LONG_TEST_S if item.get_closest_marker("attack") else TEST_S))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid.startswith("tests/faults/"):
            self._began_s = min(self._began_s, report.start)
            self._ended_s = max(self._ended_s, report.stop)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.is_over and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.is_over:
            limit = f"the attack took {self.took_s:.0f} s, and may take {self._most_s:.0f} s"
            terminalreporter.section("too long", red=True)
            terminalreporter.write_line(f"{limit}; on a machine that is busy with other things set {UNTIMED}=1")

    @staticmethod
    def _limit_s(config: pytest.Config) -> float:
        option = config.option
        chosen = option.keyword or option.ignore or option.deselect or option.maxfail or hasattr(config, "workerinput")
        whole = any(Path(name).resolve() == FOLDER for name in config.args)
        if chosen or not whole or os.environ.get(UNTIMED):
            return float("inf")
        return QUICK_S if option.markexpr == "not attack" else WHOLE_S
