# make demo   train on the embedded digits, about two minutes
# make train  train the Keras example on CIFAR-100
# make test   linters, types and all tests
# make lint   linters and types alone

PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin

.PHONY: demo train test lint clean

demo: .venv/run
	$(BIN)/python main.py --config=configs/eanet_digits.py

# What TFDS has to prepare itself needs TensorFlow, once.
train: .venv/run
	$(BIN)/python -m eanet.data cifar100 || \
		($(BIN)/pip install -q -r requirements-prepare.txt && $(BIN)/python -m eanet.data cifar100)
	$(BIN)/python main.py --config=configs/eanet_cifar100.py

test: lint
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/run: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	touch $@

.venv/dev: .venv/run requirements-dev.txt
	$(BIN)/pip install -q -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis
