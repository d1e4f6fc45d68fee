# make demo   train on the embedded digits, about two minutes
# make train  train the Keras example on CIFAR-100
# make test   linters, types and all tests
# make lint   linters and types alone
# make bench  this project against its peers, and the other measurements; two hours of a quiet machine

PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin

.PHONY: demo train test lint bench clean

demo: .venv/run
	$(BIN)/python main.py --config=configs/eanet_digits.py

# What TFDS has to prepare itself needs TensorFlow, once.
train: .venv/run
	$(BIN)/python -m eanet prepare cifar100 || \
		($(BIN)/pip install -q -r requirements-prepare.txt && $(BIN)/python -m eanet prepare cifar100)
	$(BIN)/python main.py --config=configs/eanet_cifar100.py

test: lint
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/run .venv-peers/run
	$(BIN)/python -m benchmarks.throughput --config=configs/eanet_cifar100.py
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m eanet prepare cifar100
	$(BIN)/python -m benchmarks.startup --config=configs/eanet_cifar100.py
	$(BIN)/python -m benchmarks.profile --config=configs/eanet_cifar100.py
	$(BIN)/python -m benchmarks.ensemble --config=configs/eanet_cifar100.py

.venv/run: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	touch $@

.venv/dev: .venv/run requirements-dev.txt
	$(BIN)/pip install -q -r requirements-dev.txt
	touch $@

.venv-peers/run: requirements-peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install -q -r requirements-peers.txt
	touch $@

clean:
	rm -rf .venv .venv-peers .pytest_cache .ruff_cache .mypy_cache .hypothesis
