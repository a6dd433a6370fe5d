# What the makefiles of both layers and both functions share; `sam build` runs them. sam copies each source folder
# elsewhere first and runs make in the copy, but names this repository's own makefile, so ROOT is always found.
#   UV            the installer: from the caller, else on the PATH, else the project's own
#   ARCHITECTURE  the processor, arm64 or x86_64; `make build` sets it to the template's parameter of this name
ROOT := $(abspath $(dir $(abspath $(lastword $(MAKEFILE_LIST))))..)
UV ?= $(or $(shell command -v uv),$(ROOT)/.venv/bin/uv)
ARCHITECTURE ?= arm64
LAMBDA_PYTHON ?= 3.13
LAMBDA_PLATFORM ?= $(subst arm64,aarch64,$(ARCHITECTURE))-manylinux2014

# Pinned wheels for Lambda, whatever this machine is. Nothing is built from source.
define install-layer
"$(UV)" pip install --quiet --require-hashes --only-binary :all: --link-mode copy \
    --python-version $(LAMBDA_PYTHON) --python-platform $(LAMBDA_PLATFORM) \
    --target "$(ARTIFACTS_DIR)/python" --requirement requirements.txt
rm -rf "$(ARTIFACTS_DIR)/python/bin" "$(ARTIFACTS_DIR)/python/.lock"
$(call precompile,/opt)
endef

define copy-function
cp -R llm_server $(wildcard *.toml) "$(ARTIFACTS_DIR)/"
find "$(ARTIFACTS_DIR)" -name __pycache__ -prune -exec rm -rf {} +
$(call precompile,/var/task)
endef

# sam dates every file 1980 and so spoils bytecode that is checked by time; this kind is not checked. Only the very
# Python that Lambda runs can write it. $(1) is where Lambda unpacks the files: tracebacks name that path.
define precompile
@found=; for python in python$(LAMBDA_PYTHON) "$$("$(UV)" python find --system --no-project $(LAMBDA_PYTHON) 2>/dev/null)" \
    "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$(LAMBDA_PYTHON).*/bin/python; do \
    case "$$("$$python" --version 2>/dev/null)" in *" $(LAMBDA_PYTHON)."*) found="$$python"; break;; esac; \
done; \
if [ -n "$$found" ]; then \
    "$$found" -m compileall -q --invalidation-mode unchecked-hash -s "$(ARTIFACTS_DIR)" -p $(1) "$(ARTIFACTS_DIR)"; \
else \
    echo "Warning: no Python $(LAMBDA_PYTHON) on this machine, so no bytecode is shipped: cold starts take longer."; \
fi
endef
