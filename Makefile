# make demo   train on the embedded digits, about two minutes
# make train  train the Keras example on CIFAR-100
# make prepare DATASET=mnist [DATA_DIR=DIR]   prepare a data set of TensorFlow Datasets
# make test   linters, types and all tests
# make lint   linters and types alone
# make bench  this project against its peers, and the other measurements; two hours of a quiet machine
# make bench-gpu  the same against the peers, on an NVIDIA GPU

# What made .venv makes it again, unless another Python is named: make test PYTHON=python3.13
PYTHON ?= .venv/bin/python python3.11 python3.12 python3.13 python3

# The name of a pyenv shim may have nothing behind it, so what runs counts, not what is found.
version = $(shell $(1) -c 'import sys; v = sys.version_info[:2]; \
	print("%d.%d" % v if (3, 11) <= v <= (3, 13) else "")' 2>/dev/null)
candidates := $(PYTHON) $(foreach name,$(PYTHON),$(wildcard $(HOME)/.pyenv/versions/*/bin/$(name)))
python := $(firstword $(foreach name,$(candidates),$(if $(call version,$(name)),$(name))))
VERSION := $(call version,$(python))

BIN := .venv/bin
RUN := .venv/run-$(VERSION)
DEV := .venv/dev-$(VERSION)

.PHONY: demo train prepare test lint bench bench-gpu clean

demo: $(RUN)
	$(BIN)/python main.py --config=configs/eanet_digits.py

train:
	$(MAKE) prepare DATASET=cifar100
	$(BIN)/python main.py --config=configs/eanet_cifar100.py

# What TFDS has to prepare itself needs TensorFlow, once; that it is missing is exit code 5.
PREPARE = $(BIN)/python -m eanet prepare "$(DATASET)" $(if $(DATA_DIR),--data_dir="$(DATA_DIR)")
prepare: $(RUN)
	@test -n "$(DATASET)" || { echo "say which data set, as in make prepare DATASET=mnist"; exit 2; }
	@$(PREPARE) || { code=$$?; test $$code = 5 || exit $$code; \
		echo "installing TensorFlow, which prepares it"; \
		$(BIN)/pip install -q -r requirements-prepare.txt && $(PREPARE); }

test: lint
	$(BIN)/python -m pytest

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(RUN) .venv-peers/run
	$(BIN)/python -m benchmarks.throughput --config=configs/eanet_cifar100.py
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m eanet prepare cifar100
	$(BIN)/python -m benchmarks.startup --config=configs/eanet_cifar100.py
	$(BIN)/python -m benchmarks.profile --config=configs/eanet_cifar100.py
	$(BIN)/python -m benchmarks.ensemble --config=configs/eanet_cifar100.py

# Each program fails without the GPU, and takes memory as it needs it, since all wait on one GPU. That
# there is one is asked first, before gigabytes are installed.
bench-gpu:
	@test -e /dev/nvidia0 || { echo "make bench-gpu measures on an NVIDIA GPU; there is none here" >&2; exit 2; }
	$(MAKE) .venv-gpu/run
	JAX_PLATFORMS=cuda XLA_PYTHON_CLIENT_PREALLOCATE=false TF_FORCE_GPU_ALLOW_GROWTH=true \
		.venv-gpu/bin/python -m benchmarks.throughput --config=configs/eanet_cifar100.py \
		--cases=train,train_no_dropout,train_augmented,evaluate,self_attention,dtypes,batch_sizes,memory_sizes,implementations,implementations_64,microbatches \
		--peers=torch-compile,keras-jax,keras-tensorflow --peer_python=.venv-gpu/bin/python \
		--out=runs/benchmarks/gpu

$(RUN): requirements.txt
	@test -n "$(VERSION)" || { echo "Python 3.11, 3.12 or 3.13 is needed, as in make demo PYTHON=PATH"; exit 2; }
	@test -e $(BIN)/python$(VERSION) || rm -rf .venv  # made by another Python
	$(python) -m venv .venv
	$(BIN)/pip install -q -r requirements.txt
	@touch $@

$(DEV): $(RUN) requirements-dev.txt requirements-export.txt requirements-hub.txt
	$(BIN)/pip install -q -r requirements-dev.txt
	@touch $@

.venv-peers/run: requirements-peers.txt
	$(python) -m venv .venv-peers
	.venv-peers/bin/pip install -q -r requirements-peers.txt
	touch $@

.venv-gpu/run: requirements-gpu.txt requirements.txt
	$(python) -m venv .venv-gpu
	.venv-gpu/bin/pip install -q -r requirements-gpu.txt
	touch $@

clean:
	rm -rf .venv .venv-peers .venv-gpu .pytest_cache .ruff_cache .mypy_cache .hypothesis
