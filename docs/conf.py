"""The docs site: `make docs` builds it from the README, the other papers and docs/, as they stand in the repository.

The source folder is the repository's root, so that a link is right in both places. A broken link, a missing anchor and
a page that the navigation does not list are warnings, and `make docs` turns each warning into an error.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path

from docutils.nodes import document
from pygments.lexers.special import TextLexer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

project = "LLM-Server"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "examples/**.md"]
exclude_patterns = [".*", "benchmarks", "data", "events", "layers", "requirements", "src", "tests", "tools"]
myst_heading_anchors = 4
html_theme = "furo"
html_title = project
html_show_sphinx = False
html_copy_source = False

DECISIONS = "docs/adr/README"
NAVIGATION = {
    "Use": [
        "docs/first-steps",
        "docs/modes",
        "docs/tasks",
        "docs/streams",
        "docs/plans",
        "docs/api",
        "docs/openai",
        "docs/keys",
        "examples/*",
    ],
    "Configure": ["docs/engines", "docs/local-models", "docs/analysis"],
    "Operate": ["docs/hosting", "docs/aws", "docs/operations", "docs/data", "docs/performance"],
    "Change": ["CONTRIBUTING", "docs/contributing*", "docs/architecture", "docs/glossary", DECISIONS],
    "Project": ["CHANGELOG", "SECURITY", "CODE_OF_CONDUCT"],
}
"""The pages of the side bar, as patterns; one that matches no page is left out."""
INDEX = '<!doctype html><title>LLM-Server</title><meta http-equiv="refresh" content="0; url=README.html">\n'


def setup(app: Sphinx) -> None:
    app.add_lexer("mermaid", TextLexer)  # diagrams stay text: drawing them needs a script of 3 MB
    app.connect("source-read", _add_navigation)
    app.connect("doctree-read", _link_folders)
    app.connect("build-finished", _write_index)


def _add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Append the tables of contents, which the pages do not need in the repository."""
    if page == root_doc:
        source[0] += "".join(_contents(caption, patterns, app) for caption, patterns in NAVIGATION.items())
    if page == DECISIONS:
        source[0] += _contents("Decisions", ["docs/adr/0*"], app)


def _contents(caption: str, patterns: list[str], app: Sphinx) -> str:
    pages = [page for pattern in patterns for page in sorted(app.env.found_docs) if fnmatchcase(page, pattern)]
    lines = "\n".join(f"/{page}" for page in pages)
    return f"\n\n```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{lines}\n```\n" if pages else ""


def _link_folders(app: Sphinx, page: document) -> None:
    """Lead a link to a folder to the folder's README; if it has none, show the link as plain text."""
    for link in list(page.findall(pending_xref)):
        _, path = app.env.relfn2path(link["reftarget"])
        readme = f"{os.path.relpath(path, app.srcdir)}/README"
        if not Path(path).is_dir():
            continue
        if readme in app.env.found_docs:
            link.attributes.update({"refdomain": "doc", "reftarget": readme, "reftargetid": None})
        else:
            link.replace_self(link.children)


def _write_index(app: Sphinx, error: Exception | None) -> None:
    """The site's front page is README.html; a web server looks for index.html."""
    if error is None and app.builder.name == "html":
        Path(app.outdir, "index.html").write_text(INDEX, encoding="utf-8")
