"""`make docs` builds every page without a network, and fails on a link without a target."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from aws_local.environments import tool

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LOADED = re.compile(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"([^\"]+)|<link\b[^>]*\bhref=\"([^\"]+)")
"""Files that a browser fetches for a page without a click."""
STYLE_LOADS = re.compile(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\"')]+)")


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build as `make docs` does."""
    flags = ["-q", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-d", str(out / "doctrees")]
    command = [str(tool("docs", "sphinx-build")), *flags, str(source), str(out / "html")]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def repository(folder: Path, *links: str) -> Path:
    """Write a repository of a few pages; `links` are in the README from line 3, two lines each."""
    (folder / "docs" / "adr").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "LICENSE").write_text("A licence.")
    (folder / "README.md").write_text("\n\n".join(["# First", *links]) + "\n")
    (folder / "docs" / "adr" / "README.md").write_text("# Decisions\n")
    (folder / "docs" / "tasks.md").write_text("# Tasks\n\n[back](../README.md)\n\n## A part\n\nText.\n")
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out / "html"


def test_the_tests_use_the_command_of_make_docs() -> None:
    assert "sphinx-build -q -W --keep-going -c docs -d" in (ROOT / "Makefile").read_text()


def test_every_page_is_in_the_site_and_in_its_navigation(site: Path) -> None:
    front = (site / "README.html").read_text(encoding="utf-8")

    for page in PAGES:
        html = page.relative_to(ROOT).with_suffix(".html")
        assert (site / html).is_file()
        assert page.name == "README.md" or f'href="{html}"' in front or "adr" in page.parts
    assert "README.html" in (site / "index.html").read_text(encoding="utf-8")


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    loaded = {
        "".join(found) for page in site.rglob("*.html") for found in LOADED.findall(page.read_text(encoding="utf-8"))
    }
    styled = [url for css in site.rglob("*.css") for url in STYLE_LOADS.findall(css.read_text(encoding="utf-8"))]

    assert loaded
    assert [url for url in loaded if "//" in url] == []
    assert styled == []


def test_valid_links_are_accepted(tmp_path: Path) -> None:
    """The page of a folder is its README; a folder without a README is not linked."""
    links = ["[a part](docs/tasks.md#a-part)", "[a file](LICENSE)", "[decisions](docs/adr/)", "[a folder](empty)"]

    done = build(repository(tmp_path / "in", *links), tmp_path / "out")

    assert (done.returncode, done.stderr) == (0, "")
    front = (tmp_path / "out" / "html" / "README.html").read_text(encoding="utf-8")
    assert 'href="docs/tasks.html#a-part"' in front
    assert 'href="docs/adr/README.html"' in front
    assert 'href="empty' not in front


def test_a_link_without_a_target_fails_the_build_and_is_named(tmp_path: Path) -> None:
    dead = {
        "docs/none.md": "[no page](docs/none.md)",
        "none-there": "[no anchor](docs/tasks.md#none-there)",
        "none-here": "[no anchor here](#none-here)",
        "NOTHING": "[no file](NOTHING)",
    }

    done = build(repository(tmp_path / "in", *dead.values()), tmp_path / "out")

    assert done.returncode != 0
    for line, target in enumerate(dead):
        [warning] = [found for found in done.stderr.splitlines() if f"'{target}'" in found]
        assert f"README.md:{3 + 2 * line}: WARNING" in warning


def test_a_page_outside_the_navigation_fails_the_build(tmp_path: Path) -> None:
    source = repository(tmp_path / "in", "Text.")
    (source / "docs" / "unlisted.md").write_text("# Unlisted\n")

    done = build(source, tmp_path / "out")

    assert done.returncode != 0
    assert "unlisted.md: WARNING" in done.stderr
