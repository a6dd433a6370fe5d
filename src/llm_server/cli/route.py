"""Decides a task as a server would, and measures the analysis on labelled prompts; needs no running server."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from llm_server.api import views
from llm_server.catalog_loading import configured_catalog
from llm_server.cli import display
from llm_server.embedded.assembly import embedded_service
from llm_server.orchestration.domain.api_key import LOCAL_TENANT
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.routing.analysis import FIELDS, Analysis, analyse, own_roles
from llm_server.orchestration.routing.evaluation import apgr, auroc, calibration_error, interval, share
from llm_server.orchestration.tasks.new_task import NewTask
from llm_server.settings import Settings

THRESHOLD = 0.7
_OWN_PORT = 8000
"""The default port of LLM-Server itself, so no engine is looked for there."""
_FAMILIES = {"code": "Coder", "text": "Writing", "talk": "Chat-Agent"}
_Judged = Sequence[tuple[Mapping[str, Any], Analysis]]


class UnreadableRows(ValueError):
    """A line of the file for `--eval` cannot be used; the message names the line and says why."""


def decision(prompt: str, profile: str | None, role: str | None) -> dict[str, Any]:
    """Return the answer to `POST /tasks?dry_run=true` of a server that starts now with these settings.

    If no engine is configured, look for one as a server does when it starts.

    Raises:
        InvalidInput: a server would refuse the prompt, the profile or the role.
        ConfigurationError: a setting, or the file that LLM_SERVER_CONFIG names, is wrong.
    """
    new, settings = NewTask(prompt=prompt, profile=profile, role=role), Settings.read()
    with TemporaryDirectory() as folder:
        settings = replace(settings, db=Path(folder) / "tasks.db")
        with embedded_service(settings, own_port=_OWN_PORT) as embedded:
            quoted = embedded.service.quote(LOCAL_TENANT, new)
    document: dict[str, Any] = views.decision(quoted).model_dump(mode="json")
    return document


def evaluation(path: Path, profile: str | None = None) -> Iterator[str]:
    """Yield a line for each figure of a file of labelled prompts, decided with the configured roles.

    With a profile, its roles alone are offered.

    Raises:
        UnreadableRows: a line of the file is not as `rows_of` needs it.
        ConfigurationError: a setting, or the file that LLM_SERVER_CONFIG names, is wrong.
        UnknownName: the profile is not configured.
    """
    catalog = configured_catalog(Settings.read())
    if profile:
        catalog.profile(profile)
    return report(rows_of(path, catalog.roles), catalog, profile)


def rows_of(path: Path, roles: Iterable[str]) -> list[dict[str, Any]]:
    """Read a file of JSON lines; each line is an object with a text `prompt`, and labels as `report` reads them.

    Raises:
        UnreadableRows: a line is not such an object, or its `ok_roles` are not names of `roles` or of their families.
    """
    known = list(dict.fromkeys(name for role in roles for name in (role, family(role))))
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UnreadableRows(f"{path.name} is not UTF-8.") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError:
                raise UnreadableRows(f"{path.name}, line {number} is not JSON.") from None
            if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
                raise UnreadableRows(f'{path.name}, line {number} has no text field "prompt".')
            fault = _fault_of_roles(row.get("ok_roles", []), known) or _fault_of_labels(row)
            if fault:
                raise UnreadableRows(f"{path.name}, line {number}: {fault}.")
            rows.append(row)
    return rows


def _fault_of_roles(ok_roles: object, known: list[str]) -> str:
    if not isinstance(ok_roles, list):
        return "ok_roles is not a list of roles"
    unknown = [name for name in ok_roles if name not in known]
    return f"ok_roles names the unknown role {str(unknown[0])[:60]!r}; known are {', '.join(known)}" if unknown else ""


def _fault_of_labels(row: Mapping[str, Any]) -> str:
    """Say which label has the wrong type; "" if none has."""
    for name in ("weak", "strong"):
        if name in row and (isinstance(row[name], bool) or not isinstance(row[name], (int, float))):
            return f"{name} is not a number"
    if not isinstance(row.get("role", ""), str):
        return "role is not a text"
    if not isinstance(row.get("ok_modes", []), list):
        return "ok_modes is not a list of modes"
    if not isinstance(row.get("multi_step", False), bool):
        return "multi_step is not true or false"
    return ""


def report(rows: Iterable[Mapping[str, Any]], catalog: Catalog, profile: str | None = None) -> Iterator[str]:
    """Yield a line for each figure for which the rows have labels.

    Three sets of labels are known: ok_roles and ok_modes; weak and strong; multi_step.
    """
    own, offered = own_roles(catalog), catalog.roles_of(profile) if profile else list(catalog.roles)
    judged = [(row, analyse(row["prompt"], roles=offered, profile=profile, own=own)) for row in rows]
    yield display.counted(len(judged), "prompt")
    roles = [(row, analysis) for row, analysis in judged if row.get("ok_roles")]
    if roles:
        yield from _decisions(roles)
    paired = [(row, analysis) for row, analysis in judged if "weak" in row and "strong" in row]
    if paired:
        yield from _gap(paired)
    stepped = [(row, analysis) for row, analysis in judged if "multi_step" in row]
    if stepped:
        ranked = auroc([a.multi_step for _, a in stepped], [row["multi_step"] for row, _ in stepped])
        yield f"several steps: AUROC {ranked:.3f}"


def family(role: str) -> str:
    """Return the name that labels use for a role: one name for all coders, and one for all writers."""
    field = next((field for field, members in FIELDS.items() if role in members), "")
    return _FAMILIES.get(field, role.removesuffix("-Agent"))


def _decisions(judged: _Judged) -> Iterator[str]:
    right = [not {a.role, family(a.role)}.isdisjoint(row["ok_roles"]) for row, a in judged]
    moded = [(a.mode.value in row["ok_modes"]) for row, a in judged if row.get("ok_modes")]
    both = [
        ok and a.mode.value in row.get("ok_modes", [a.mode.value]) for ok, (row, a) in zip(right, judged, strict=True)
    ]
    sure = [ok for ok, (_, a) in zip(both, judged, strict=True) if a.confidence >= THRESHOLD]
    yield _with_interval("role acceptable", right)
    if moded:
        yield _with_interval("mode acceptable", moded)
    yield f"calibration error: {calibration_error([a.confidence for _, a in judged], both):.3f}"
    abstained = 1 - len(sure) / len(judged)
    yield f"abstained (confidence below {THRESHOLD}): {abstained:.1%}; correct among the others: {share(sure):.1%}"
    yield from _confusion(judged)


def _with_interval(name: str, right: list[bool]) -> str:
    low, high = interval(len(right), lambda chosen: share([right[i] for i in chosen]))
    return f"{name}: {share(right):.3f} ({low:.3f} to {high:.3f})"


def _confusion(judged: _Judged) -> Iterator[str]:
    """Yield a table with a row for each label and a column for each decision.

    A prompt's label is its `role`, or else the first of its `ok_roles`.
    """
    cells = Counter((row.get("role", row["ok_roles"][0]), family(a.role)) for row, a in judged)
    across = sorted({decided for _, decided in cells})
    yield "label \\ decided".ljust(18) + "".join(name[:9].rjust(10) for name in across)
    for label in sorted({label for label, _ in cells}):
        yield label[:17].ljust(18) + "".join(str(cells[label, name] or "·").rjust(10) for name in across)


def _gap(judged: _Judged) -> Iterator[str]:
    weak, strong = ([float(row[side]) for row, _ in judged] for side in ("weak", "strong"))
    lengths = [float(len(row["prompt"])) for row, _ in judged]
    for name, scores in (("complexity", [a.complexity for _, a in judged]), ("prompt length", lengths)):
        figure = partial(_apgr_of, scores, weak, strong)
        low, high = interval(len(judged), figure)
        yield f"APGR by {name}: {figure(range(len(judged))):.3f} ({low:.3f} to {high:.3f})"


def _apgr_of(scores: list[float], weak: list[float], strong: list[float], chosen: Sequence[int]) -> float:
    return apgr([scores[i] for i in chosen], [weak[i] for i in chosen], [strong[i] for i in chosen])
