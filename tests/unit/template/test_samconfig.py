"""samconfig.toml: each environment has its region and its engine, and `sam local` finds what `make aws-local` made."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from aws_local import template
from aws_local.__main__ import SAM_VARIABLES
from support.template_stack import resolved

ROOT = template.TEMPLATE.parent
CONFIG: dict[str, Any] = tomllib.loads((ROOT / "samconfig.toml").read_text(encoding="utf-8"))


def deployed(environment: str) -> template.Stack:
    """Return the stack that `sam deploy --config-env` makes, with the parameters of samconfig.toml."""
    given = CONFIG[environment]["deploy"]["parameters"]["parameter_overrides"]
    parameters = dict(pair.split("=", 1) for pair in given.split())
    translated = template.translate(template.load())
    assert parameters.keys() <= translated["Parameters"].keys()
    return resolved(translated, **parameters)


@pytest.mark.parametrize("environment", ["default", "prod"])
def test_each_environment_has_a_stack_and_a_region(environment: str) -> None:
    """Without a region, `sam deploy --config-env` fails unless the shell has one."""
    names = [CONFIG[e]["global"]["parameters"]["stack_name"] for e in ("default", "prod")]

    assert len(set(names)) == 2
    assert re.fullmatch(r"[a-z]+-[a-z]+-\d", CONFIG[environment]["deploy"]["parameters"]["region"])


@pytest.mark.parametrize("environment", ["default", "prod"])
def test_each_environment_is_accepted_by_the_template(environment: str) -> None:
    assert deployed(environment).refusals() == []


def test_production_has_an_engine_of_its_own_and_does_not_start_without_one() -> None:
    variables = deployed("prod").environment("WorkerFunction")

    assert variables["OPENAI_API_KEY"] == "ssm:/llm-server-prod/openai"
    assert variables["LLM_SERVER_REQUIRE_ENGINE"] == "true"
    assert deployed("default").environment("WorkerFunction")["LLM_SERVER_REQUIRE_ENGINE"] == "false"


def test_the_answers_to_make_deploy_are_not_in_git() -> None:
    """`sam deploy --guided` writes its answers, such as a region, into the configuration file that it is given."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [file] = re.findall(r"deploy --guided .*--config-file \$\(abspath (\S+)\)", makefile)

    assert file in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_sam_local_serves_the_documented_port_with_the_variables_of_aws_local() -> None:
    start_api = CONFIG["default"]["local_start_api"]["parameters"]

    assert start_api["port"] == 8000
    assert start_api["warm_containers"] == "EAGER"
    assert start_api["env_vars"] == str(SAM_VARIABLES)
