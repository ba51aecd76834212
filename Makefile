# Everything a newcomer types. Each target first brings .venv to what it needs; where nothing changed since, that costs nothing.
#
#   PYTHON   the interpreter (3.11 or later) that .venv is made from
#   ARGS     handed on to the program that the target runs: make demo ARGS='--seeds 5', make test ARGS='-k losses'

.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/ready
# One process a core, and one thread a process (tests/conftest.py sees to that); a file's tests share what they set up.
WORKERS ?= 2

# pip shows its progress to a person and stays quiet for a log.
INSTALL = if [ -t 1 ]; then quiet=; else quiet=--quiet; fi; \
	$(BIN)/python -m pip install $$quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(READY)/run ## Train the twins and write runs/demo: table, pictures, models, report.html (ARGS='--seeds 5', ...)
	$(BIN)/decondense demo --out runs/demo $(ARGS)

.PHONY: test
test: lint ## Lint, then run the tests (ARGS='-k losses', ...)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadscope $(ARGS)

.PHONY: lint
lint: $(READY)/test ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

.PHONY: bench
bench: $(READY)/run ## Time and memory of the losses beside their peers, on the CPU
	$(BIN)/python benchmarks/losses.py $(ARGS)

.PHONY: docs
docs: $(READY)/docs ## Build the site into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

.PHONY: clean
clean: ## Remove .venv and all that the other targets made, but not runs/
	rm -rf .venv site build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# What is installed is a function of these two files; the package itself is installed as a link to src/.
$(READY)/run: EXTRAS := hf,report
$(READY)/test: EXTRAS := hf,report,train,trl,lightning,evaluate,dev
$(READY)/docs: EXTRAS := docs
$(READY)/run $(READY)/test $(READY)/docs: $(READY)/python pyproject.toml constraints.txt
	@echo "installing decondense[$(EXTRAS)] into .venv (minutes the first time)"
	@$(INSTALL) --editable '.[$(EXTRAS)]'
	@$(if $(findstring test,$@),$(OPTIONAL_FOR_TESTS))
	@touch $@

# There are triton wheels for Linux alone; without one the tests that run its kernel in its interpreter are skipped.
OPTIONAL_FOR_TESTS = if [ "$$(uname -s)" = Linux ]; then \
	$(INSTALL) --only-binary :all: triton || echo "no triton wheel here: its tests are skipped"; fi

$(READY)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"PYTHON=$(PYTHON) is Python %d.%d: decondense needs 3.11 or later, name one as in make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -m venv .venv
	@mkdir -p $(READY) && touch $@
