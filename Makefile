# What the README names. Nothing is needed but Python 3.11 or later, git and make; all else goes into .venv.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
export UV := $(abspath $(BIN)/uv)
SAM := $(VENV)/sam/bin/sam
INSTALL := $(UV) pip install --quiet --require-hashes
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url
PYTEST := $(BIN)/python -m pytest -q
EACH := --numprocesses auto --dist loadfile # a core each; a file's tests stay together

.PHONY: run test attack mutants train check format lint types contracts bench build deploy aws-local openapi docs lock clean

run: $(VENV)/.run $(if $(LOCAL),$(VENV)/.local) ## Serve http://localhost:8000, embedded; LOCAL=1: able to load GGUF files
	@exec $(BIN)/llm-server serve --port $(PORT)

test: $(VENV)/.dev ## The whole suite: no account, no Docker
	$(PYTEST) $(EACH) tests/training tests/faults # alone: traced for their coverage they take many times as long
	$(PYTEST) $(EACH) --ignore=tests/training --ignore=tests/faults --cov --cov-report= $(ARGS)
	$(BIN)/coverage report --include='src/llm_server/orchestration/**/*' --fail-under=95
	$(BIN)/coverage report --include='src/llm_server/storage/**/*' --fail-under=95

attack: $(VENV)/.dev ## Every fault, also the long ones (storms, killed servers); ends with a table
	$(PYTEST) tests/faults -m 'attack or not attack' $(ARGS)

mutants: $(VENV)/.dev ## Seeded bugs, each of which the attack must catch
	PYTHONPATH=tests $(BIN)/python -m faults.mutants $(ARGS)

train: $(VENV)/.run ## The analysis' data file from data/routing: the same bytes, with the standard library alone
	PYTHONPATH=src:tools $(BIN)/python -m train $(ARGS)

check: lint types contracts test ## Everything CI runs

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy src tools tests benchmarks

contracts: $(VENV)/.dev ## Who may import whom
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## Ratios measured side by side in one run
	$(BIN)/python -m benchmarks

build: $(VENV)/.dev ## The deployment package, without Docker
	$(SAM) build

deploy: build ## To AWS, asking first
	$(SAM) deploy --guided

aws-local: $(VENV)/.dev ## The AWS path on this machine: emulator, table and queue from template.yaml
	@PYTHONPATH=src:tools exec $(BIN)/python -m aws_local $(ARGS)

openapi: $(VENV)/.dev ## docs/openapi.json as the app exports it
	$(BIN)/python tools/export_openapi.py > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

docs: $(VENV)/.dev ## The pages as a site in .docs-site/html; a broken link is an error
	$(VENV)/docs/bin/sphinx-build -q -W --keep-going -c docs -d .docs-site/doctrees . .docs-site/html

lock: $(VENV)/.uv ## New pins
	$(COMPILE) --upgrade requirements/uv.in -o requirements/uv.txt
	$(COMPILE) --upgrade --group dev pyproject.toml requirements/build.in -o requirements/dev.txt
	$(COMPILE) --upgrade pyproject.toml requirements/build.in -c requirements/dev.txt -o requirements/run.txt
	$(COMPILE) --upgrade --extra local pyproject.toml -c requirements/dev.txt -o requirements/local.txt
	$(COMPILE) --upgrade requirements/ministack.in -o requirements/ministack.txt
	$(COMPILE) --upgrade requirements/sam.in -o requirements/sam.txt
	$(COMPILE) --upgrade requirements/docs.in -o requirements/docs.txt
	$(COMPILE) --exclude-newer 2026-10-01T00:00:00Z requirements/litellm.in -o requirements/litellm.txt
	$(MAKE) -C layers lock

clean:
	rm -rf $(VENV) .aws-sam .docs-site .coverage* .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 run")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(VENV)/.run: $(VENV)/.uv requirements/run.txt pyproject.toml
	@echo "Setting up .venv ..."
	@$(INSTALL) --python $(BIN)/python -r requirements/run.txt
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e .
	@touch $@

$(VENV)/.local: $(VENV)/.run requirements/local.txt
	@echo "Setting up .venv for models in the process ..."
	@$(INSTALL) --python $(BIN)/python -r requirements/local.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt requirements/ministack.txt requirements/sam.txt requirements/docs.txt
	@echo "Setting up .venv for tests ..."
	@$(INSTALL) --python $(BIN)/python -r requirements/dev.txt
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/ministack
	@$(INSTALL) --python $(VENV)/ministack/bin/python -r requirements/ministack.txt
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/sam
	@$(INSTALL) --python $(VENV)/sam/bin/python -r requirements/sam.txt
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/docs
	@$(INSTALL) --python $(VENV)/docs/bin/python -r requirements/docs.txt
	@touch $@
