# Everything that a developer or a curious stranger types. `make help` lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PLAIN := .cache/plain
# Extras stay in the locks: without them, pip may take a release newer than the pinned one for the
# name with its extras, and then refuses it as it has no hash.
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --no-strip-extras --generate-hashes --no-header --universal --python-version 3.11
PIP := bin/python -m pip --disable-pip-version-check install --quiet

# The tests start Python hundreds of times: it shall not compile the program each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test e2e .fire .parts bench check proof mutants soak pictures lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.run ## the main job: the daemon against an embedded AWS, three rotations as they happen
	@$(BIN)/rekeyd demo

COVERED := --cov=rekeyd --cov-branch --cov-report=term:skip-covered --cov-report=json:.cache/coverage.json
REST := $(BIN)/python -m pytest -n 3 --dist worksteal -m "not e2e and not proof"

test: $(VENV)/.test ## all tests that need no root; make test COVERAGE=yes measures it, too
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m proof
	@$(BIN)/python tests/write_proof.py --show
ifdef COVERAGE
	@$(REST) $(COVERED)
	@$(BIN)/python tests/floors.py .cache/coverage.json
else
	@$(REST)
endif

e2e: $(VENV)/.test ## what needs root and Debian packages: systemd, containers, real servers and tools
	@tests/e2e/packages.sh
	@$(MAKE) --no-print-directory --jobs 2 .fire .parts
	@$(BIN)/python tests/write_proof.py --show

# Side by side, as both mostly wait.
FIRE := $(addprefix tests/e2e/test_,under_fire.py served_world.py power_loss.py postgres.py)
E2E := $(BIN)/python -m pytest -m e2e --timeout 900 --durations 5
.fire:
	@$(E2E) $(FIRE)
.parts:
	@$(E2E) tests/e2e $(addprefix --ignore ,$(FIRE))

bench: $(VENV)/.test $(PLAIN)/.installed ## the figures, beside their references, in one table
	@$(PLAIN)/$(PIP) --no-deps --no-build-isolation --force-reinstall .
	@$(BIN)/python tests/bench.py $(PLAIN)/bin/python

check: $(VENV)/.test ## lint, types, floors, dependencies, docs
	@$(BIN)/ruff format --check --quiet daemon tests
	@$(BIN)/ruff check --quiet daemon tests
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache > .cache/floors.txt || (cat .cache/floors.txt; false)
	@$(BIN)/deptry daemon 2> .cache/deptry.txt || (cat .cache/deptry.txt; false)
	@$(BIN)/python -m pytest -q tests/test_docs.py tests/test_deploy.py tests/test_dashboard.py
	@echo "lint, types, floors, dependencies and docs are in order"

proof: $(VENV)/.test ## run the proofs, and write tests/PROOF.md anew
	@$(BIN)/python tests/write_proof.py

mutants: $(VENV)/.test ## change the core and custody in small ways, one at a time; tests must notice
	@$(BIN)/python tests/mutate.py $(MODULES)

soak: $(VENV)/.test ## the proofs for as long as there is time: make soak MINUTES=240
	@$(BIN)/python tests/soak.py --minutes $(or $(MINUTES),30)

pictures: $(VENV)/.test ## draw the dashboard and the status page anew, from a real daemon; as root, 10 minutes
	@tests/e2e/packages.sh
	@$(BIN)/python -m pytest -m e2e tests/e2e/pictures.py

lock: $(VENV)/.test ## resolve the locks anew
	@for lock in "deploy/lock/runtime.txt --extra template --extra github --extra web --extra postgres" \
		"deploy/lock/demo.txt --extra demo --group build -c deploy/lock/runtime.txt" \
		"tests/lock.txt --all-extras --group dev -c deploy/lock/demo.txt"; do \
		$(COMPILE) pyproject.toml -o $$lock || exit 1; done
	@$(COMPILE) tests/e2e/stores.in -o tests/e2e/stores.txt

clean: ## remove what the other targets made
	@rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage*

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit("rekeyd needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		[ "$$(id -u)" = 0 ] || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }; \
		echo "installing python3-venv"; apt-get update -qq && apt-get install -qq -y python3-venv; }
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p .cache
	@touch $@

$(VENV)/.run: deploy/lock/demo.txt pyproject.toml | $(VENV)/.venv
	@echo "installing rekeyd and an embedded AWS into $(VENV)"
	@$(VENV)/$(PIP) --require-hashes -r deploy/lock/demo.txt
	@$(VENV)/$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

# As users install it: the test tools make imports slower.
$(PLAIN)/.installed: deploy/lock/demo.txt
	@$(PYTHON) -m venv $(PLAIN)
	@$(PLAIN)/$(PIP) --require-hashes -r deploy/lock/demo.txt
	@touch $@

$(VENV)/.test: tests/lock.txt $(VENV)/.run
	@echo "installing the tools for tests and checks into $(VENV)"
	@$(VENV)/$(PIP) --require-hashes -r tests/lock.txt
	@touch $@
