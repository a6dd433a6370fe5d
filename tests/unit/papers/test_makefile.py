"""What the targets of the Makefile run, as `make -n` prints it, and what the CI runs of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from llm_server.orchestration.domain.retention import DELETED_KEPT_MS, SPENDING_KEPT_MS
from llm_server.orchestration.domain.task import DAY_MS
from llm_server.storage.dynamodb.api_keys import DAYS_KEPT_S

ROOT = Path(__file__).parents[3]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def planned(*arguments: str) -> str:
    """Return the commands that make would run, without those that make the environments."""
    command = ["make", "--no-print-directory", "-n", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_build_is_for_this_machine_unless_a_processor_is_named() -> None:
    assert planned("build").splitlines()[-1].endswith("-m aws_local.build ")
    assert "-m aws_local.build --architecture x86_64" in planned("build", "ARCHITECTURE=x86_64")


def test_a_deployment_is_built_for_arm64_and_goes_to_the_environment_that_was_named() -> None:
    """Without the environment, production's parameters would be those of the default stack."""
    printed = planned("deploy", "ENVIRONMENT=prod")

    assert "-m aws_local.build --architecture arm64" in printed
    assert "sam deploy --guided --config-env prod --config-file" in printed
    assert "--config-env default" in planned("deploy")
    assert "--architecture x86_64" in planned("deploy", "ARCHITECTURE=x86_64")


def test_a_machine_that_cannot_have_the_demonstration_model_is_served_nevertheless() -> None:
    """The set-up shows its progress, because it downloads 130 MB."""
    recipe = MAKEFILE[MAKEFILE.index("$(VENV)/.demonstration:") :].partition("\n\n")[0]

    assert '$(VENV)/.demonstration || echo "$(NO_DEMONSTRATION)"' in MAKEFILE
    assert recipe.count("$(UV) pip install") == 2
    assert "--quiet" not in recipe


def test_the_ci_runs_each_kind_of_test() -> None:
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")

    for target in ("lint", "types", "contracts", "test", "demonstration", "deploy-smoke"):
        assert target in run.partition("set -e")[2]
    for target in ("check", "demonstration", "deploy-smoke"):
        assert f"run: make {target} PYTHON=python" in workflow


def test_the_page_about_data_names_the_times_of_the_code() -> None:
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")

    assert SPENDING_KEPT_MS == DAYS_KEPT_S * 1000
    assert f"micro-USD for each UTC day | {SPENDING_KEPT_MS // DAY_MS} days |" in page
    assert f"tenant and task id | {DELETED_KEPT_MS // DAY_MS} days |" in page
