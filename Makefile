# Everything a newcomer and the CI need; `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help setup demo test check format constraints clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## Create .venv with the package, all extras and the tools of development

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) …"
	@$(BIN)/python -m pip install --quiet --upgrade -c constraints.txt pip
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]' --group dev
	@touch $@

demo: $(READY) ## Run a small fleet for real and see its calls as rows
	@$(BIN)/elf-telemetry demo $(ARGS)

test: $(READY) ## Run the whole test suite against real servers
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY) ## Lint, types, layers and SQL
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --disable-progress-bar sql
	$(BIN)/squawk sql/migrations/*.sql

format: $(READY) ## Format Python and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints: ## Pin the newest versions that fit into constraints.txt
	rm -rf .venv-constraints
	$(PYTHON) -m venv .venv-constraints
	.venv-constraints/bin/python -m pip install --quiet --upgrade pip
	.venv-constraints/bin/python -m pip install --quiet -e '.[all]' --group dev
	.venv-constraints/bin/python -m pip freeze --all --exclude-editable > constraints.txt
	rm -rf .venv-constraints

clean: ## Remove what make made
	rm -rf $(VENV) dist build .pytest_cache .ruff_cache .hypothesis
