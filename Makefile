# The two commands of the README are `make demo` and `make test`; both build .venv from pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ZOO ?=
DEMO := build/demo
FUZZ ?= 2000
SEED ?= 0

.PHONY: demo test coverage fuzz check bench big zoo wheel clean
demo: $(READY)
	rm -rf $(DEMO) && mkdir -p $(DEMO)
	cd $(DEMO) && $(abspath $(BIN))/quant convert --mode int8-only

test: check
	$(BIN)/python -m pytest -n auto

coverage: $(READY)
	$(BIN)/python -m pytest -n auto --cov=quantcli --cov-report=term:skip-covered --cov-fail-under=90

fuzz: $(READY)
	PYTHONPATH=tests $(BIN)/python tests/fuzz/fuzz.py --graphs $(FUZZ) --seed $(SEED) --out build/fuzz

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python benchmarks/bench.py $(if $(ZOO),--zoo $(ZOO))

big: $(READY)
	$(BIN)/python benchmarks/big_model.py

zoo: $(READY)
	@test -n "$(ZOO)" || { echo "usage: make zoo ZOO=DIR  (a folder of model folders, each with model.onnx and dataset.yaml)"; exit 2; }
	$(BIN)/python benchmarks/zoo.py $(ZOO)

wheel: $(READY)
	$(BIN)/python -m pip wheel -q --no-deps -w dist .

clean:
	rm -rf $(VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@
