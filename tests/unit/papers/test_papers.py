"""What the papers at the root name exists: files behind links, paths, targets of make, and what a section is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAPERS = [
    ROOT / name
    for name in (
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CODE_OF_CONDUCT.md",
        "CHANGELOG.md",
        "examples/README.md",
        ".github/PULL_REQUEST_TEMPLATE.md",
    )
]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named_paths(text: str) -> set[str]:
    """The code spans that are paths of the repository: they begin with one of its folders."""
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != ".")
    return set(re.findall(rf"`((?:{folders})(?:/[\w./-]+)?)`", text))


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_links_lead_somewhere(paper: Path) -> None:
    broken = []
    for link in re.findall(r"\]\((?!https?:)(.+?)\)", paper.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        page = paper.parent / path if path else paper
        if not page.exists() or (anchor and anchor not in anchors(page)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_paths_exist(paper: Path) -> None:
    assert [path for path in named_paths(paper.read_text(encoding="utf-8")) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_make_targets_exist(paper: Path) -> None:
    named = re.findall(r"(?:^|`)make ([a-z-]+)", paper.read_text(encoding="utf-8"), re.MULTILINE)

    assert [target for target in named if not re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)] == []


def test_the_guide_names_every_folder_of_tests_and_of_the_tree() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    ours = [
        path for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name not in ("__pycache__", "support")
    ]

    assert [path.name for path in ours if f"| `tests/{path.name}` |" not in guide] == []


def test_the_guide_names_the_code_it_sends_a_contributor_to() -> None:
    """Names in code spans beside a path are defined in that file."""
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`\s+\(`(src/[\w/]+\.py)`\)", guide) + re.findall(
        r"`(\w+)` in\s+`(src/[\w/]+\.py)`", guide
    )

    assert len(named) >= 3
    for name, path in named:
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text(encoding="utf-8")), (name, path)
