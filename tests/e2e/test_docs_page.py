"""The documentation page in a real browser, if one is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from support.server_process import serving

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
HEADLESS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--enable-logging=stderr"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_a_browser_shows_every_operation_and_reports_no_error(tmp_path: Path) -> None:
    """The console would report a script or style that the page's Content-Security-Policy refuses."""
    paths = json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"].values()
    summaries = {operation["summary"] for path in paths for operation in path.values()}
    with serving(tmp_path / "tasks.db") as server:
        options = [*HEADLESS, f"--user-data-dir={tmp_path}/browser", "--virtual-time-budget=30000", "--dump-dom"]
        shown = subprocess.run(
            [str(BROWSER), *options, f"{server.url}/api/v1/docs"], capture_output=True, text=True, check=True
        )

    assert set(re.findall(r'class="opblock-summary-description">([^<]*)<', shown.stdout)) == summaries
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []
