"""Time limits of the attack: for each test, and for the whole of it."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
TEST_S, LONG_TEST_S = 300, 600
"""The limit of a test without a limit of its own; on a busy machine a test takes many times as long."""
QUICK_S, WHOLE_S = 4 * 60, 25 * 60
"""The limits of the quick part, which is in `make test`, and of `make attack`."""


class TimeLimits:
    """Stops a test that hangs, and tells how long all of the folder took: a clock alone fails no session.

    With pytest-xdist it is the controller that tells: it hears of every test.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._max_s = self._limit_s(config)
        self._began_s, self._ended_s = float("inf"), 0.0

    @property
    def took_s(self) -> float:
        """Return the time from the start of the first test to the end of the last one."""
        return max(0.0, self._ended_s - self._began_s)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            if FOLDER in item.path.parents and not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(LONG_TEST_S if item.get_closest_marker("attack") else TEST_S))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.nodeid.startswith("tests/faults/"):
            self._began_s = min(self._began_s, report.start)
            self._ended_s = max(self._ended_s, report.stop)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._max_s:
            late = self.took_s > self._max_s
            took = f"the attack took {self.took_s:.0f} s of the {self._max_s} s that it may take on an idle machine"
            terminalreporter.write_line(took, red=late, green=not late)

    @staticmethod
    def _limit_s(config: pytest.Config) -> int | None:
        option = config.option
        chosen = option.keyword or option.ignore or option.deselect or option.maxfail or hasattr(config, "workerinput")
        whole = any(Path(name).resolve() == FOLDER for name in config.args)
        if chosen or not whole:
            return None
        return QUICK_S if option.markexpr == "not attack" else WHOLE_S
