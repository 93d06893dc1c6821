# Everything a contributor types. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
HANDLERS ?= examples.hello.agents
INTEGRATIONS ?=
CODE := $(wildcard workmesh services examples bench tests scripts)

.DEFAULT_GOAL := help
.PHONY: help setup generate check test test-long demo up bench lock clean

help: ## List these commands.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) build/googleapis/google/rpc/status.proto ## Make .venv and install the locked packages; does nothing when they are there.
	@true

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) scripts/setup.py

build/googleapis/google/rpc/status.proto: | $(STAMP)
	@$(PYTHON) scripts/setup.py

generate: setup ## Generate the Python of the contracts in proto/.
	@$(BIN)/python scripts/generate.py

check: setup ## Lint, format, types, contracts, generated code and layer rules.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_generated.py

test: setup ## Run the unit, integration and acceptance tests.
	$(BIN)/python -m pytest -m "not long" -n 2 --dist loadfile

test-long: setup ## Run the tests that take minutes each.
	$(BIN)/python -m pytest -m long --timeout 1800

demo: setup ## Run freight jobs through the whole mesh while processes are killed; N=5000 scales it.
	@$(BIN)/python -m examples.freight.demo

up: setup ## Start the mesh on this machine and leave it running until Ctrl-C.
	@$(BIN)/python -u -m workmesh.local up --handlers "$(HANDLERS)" $(if $(INTEGRATIONS),--integrations "$(INTEGRATIONS)")

bench: setup ## Measure jobs a second and CPU a job on this machine.
	@$(BIN)/python -m bench.mesh

lock: setup ## Compile requirements.lock from pyproject.toml, with hashes and without index addresses.
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		--output-file requirements.lock pyproject.toml

clean: ## Remove caches and build products; .venv and the data in .workmesh stay.
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
