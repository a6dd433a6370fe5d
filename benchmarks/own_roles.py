"""How well roles of a configuration are chosen: four invented ones, by their purposes, and with 3 and 10 examples.

Own prompts are those of own_roles_dev.jsonl, 30 for each role. Packaged prompts are the natural ones of
role_mode_dev.jsonl; on 217 of them it is counted how many an own role takes. The packaged weights have seen them.
"""

import json
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from llm_server.cli.route import THRESHOLD, family
from llm_server.orchestration.configuration import catalog_file
from llm_server.orchestration.domain.engines.catalog import Catalog
from llm_server.orchestration.routing import word_rates
from llm_server.orchestration.routing.analysis import Analysis, analyse, own_roles
from llm_server.orchestration.routing.evaluation import calibration_error, share
from llm_server.orchestration.routing.own_roles import Description, OwnRoles
from llm_server.orchestration.routing.text_features import text_features

DATA = Path(__file__).parents[1] / "data" / "routing"
OVERLAY = DATA / "own_roles.toml"
EXAMPLES = (0, 3, 10)
Rows = Sequence[dict[str, Any]]


def run() -> None:
    own, packaged = rows("own_roles_dev.jsonl"), rows("role_mode_dev.jsonl")
    print(f"  {len(own)} prompts for four own roles, {len(packaged)} for packaged ones")
    print(f"  {'':36}{'own prompts right':>31}{'':>22}{'packaged prompts':>28}")
    print(
        f"  {'':36}{'all':>7}{'English':>9}{'others':>8}{'sure':>7}"
        f"{'right if sure':>15}{'calibration':>13}{'drawn':>9}{'sure':>7}{'acceptable':>12}"
    )
    for examples in EXAMPLES:
        catalog = with_examples(examples)
        print(_line(f"beside all roles, {examples} examples", *decided(catalog, list(catalog.roles), own, packaged)))
    for examples in EXAMPLES:
        catalog = with_examples(examples)
        print(_line(f"four own roles alone, {examples} examples", *decided(catalog, catalog.roles_of("Own"), own, [])))
    _speed([row["prompt"] for row in packaged])


def _speed(prompts: list[str]) -> None:
    """Print what it takes to read 50 roles of 20 examples, and to compare a prompt of 150 words with 10 of them."""
    roles = [
        Description(name=f"R{n}", purpose=prompts[n], examples=tuple(prompt[:150] for prompt in prompts[n : n + 20]))
        for n in range(50)
    ]
    word_rates.load()
    reading = min(_cpu_s(lambda: OwnRoles.of(roles), 1) for _ in range(5))
    ten, features = OwnRoles.of(roles[:10]), text_features(" ".join(" ".join(prompts).split()[:150]))
    comparing = min(_cpu_s(lambda: ten.scores(features), 100) for _ in range(5))
    print(f"  CPU: 50 roles of 20 examples are read in {reading * 1000:.0f} ms; ", end="")
    print(f"150 words are compared with 10 roles in {comparing * 1000:.3f} ms")


def _cpu_s(action: Callable[[], object], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        action()
    return (time.process_time() - start) / times


def rows(name: str) -> Rows:
    """Read a file of labelled prompts."""
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def with_examples(examples: int) -> Catalog:
    """Return the packaged catalogue with the four roles, each with its first `examples` examples."""
    packaged = tomllib.loads((resources.files("llm_server") / "data" / "catalog.toml").read_text(encoding="utf-8"))
    overlay = tomllib.loads(OVERLAY.read_text(encoding="utf-8"))
    for role in overlay["roles"].values():
        role["examples"] = role["examples"][:examples]
    return catalog_file.load(packaged, overlay)


def decided(
    catalog: Catalog, roles: list[str], own: Rows, packaged: Rows
) -> tuple[list[tuple[dict[str, Any], Analysis]], list[tuple[dict[str, Any], Analysis]]]:
    """Return the rows with what is decided if `roles` are offered."""
    known = own_roles(catalog)
    first, second = (
        [(row, analyse(row["prompt"], roles=roles, own=known)) for row in part] for part in (own, packaged)
    )
    return first, second


def right(judged: Iterable[tuple[dict[str, Any], Analysis]]) -> list[bool]:
    return [not {a.role, family(a.role)}.isdisjoint(row["ok_roles"]) for row, a in judged]


def _line(
    name: str, own: list[tuple[dict[str, Any], Analysis]], packaged: list[tuple[dict[str, Any], Analysis]]
) -> str:
    english = [(row, a) for row, a in own if row["lang"] == "en"]
    others = [(row, a) for row, a in own if row["lang"] != "en"]
    sure = [(row, a) for row, a in own if a.confidence >= THRESHOLD and a.role in row["ok_roles"]]
    decided = [(row, a) for row, a in own if a.confidence >= THRESHOLD]
    error = calibration_error([a.confidence for _, a in own], right(own))
    names = {role for row, _ in own for role in row["ok_roles"]}
    drawn = [a for _, a in packaged if a.role in names]
    line = f"  {name:36}{share(right(own)):7.2f}{share(right(english)):9.2f}{share(right(others)):8.2f}"
    line += f"{len(sure) / len(own):7.2f}{share(right(decided)):15.2f}{error:13.3f}"
    if not packaged:
        return line
    drawn_sure = [a for a in drawn if a.confidence >= THRESHOLD]
    size = len(packaged)
    return f"{line}{len(drawn) / size:9.3f}{len(drawn_sure) / size:7.3f}{share(right(packaged)):12.3f}"
