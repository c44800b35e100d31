# Every command does its own set-up: on a fresh Debian 12 with Python 3.11 and a Rust toolchain, `make demo` and `make test` are enough.
#
#   make demo        build, then show on a real file system what this is for (under a minute)
#   make test        the static checks, then the tests of both languages
#   make check       the static checks alone
#   make test-long   the tests that take minutes (crash rounds, long model runs, damage sweeps)
#   make test-libnbd a newer libnbd, built from Debian's source: extended headers and payloads of BLOCK_STATUS
#   make test-guest  the kernel's nbd driver, in a Debian guest under QEMU (two minutes; downloads 55 MB the first time)
#   make bench       throughput and latency beside nbdkit and qemu-nbd (half an hour); QUICK=1 for a short look
#   make bench-restore  a restore beside dd and qemu-img convert
#   make fuzz        every fuzz target for FUZZ_SECONDS (default 60) each
#   make format      rewrite sources as the checks want them
#   make clean       remove what was built; the virtual environment and caches too
#
# PYTEST_ARGS are passed on to pytest, BENCH_ARGS to the benchmarks: make test PYTEST_ARGS='-k interop -x'
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: setup native demo test check check-python check-rust test-rust test-python test-libnbd test-guest test-long bench bench-restore fuzz format clean

# rustup's default place comes last: a toolchain on PATH wins.
export PATH := $(PATH):$(HOME)/.cargo/bin
export PYTHONDONTWRITEBYTECODE := 1
PYTHON := .venv/bin/python
CARGO := cargo
MANIFEST := --manifest-path native/Cargo.toml
NATIVE_SOURCES := pyproject.toml $(shell find native -path '*/target' -prune -o \( -name '*.rs' -o -name 'Cargo.*' \) -print)
NATIVE_STAMP := .venv/native.stamp
FUZZ_SECONDS ?= 60

setup:
	@tools/setup.sh

native: setup $(NATIVE_STAMP)

# Editable: the module lands beside cdp/_native.pyi, the scripts `cdp` and `pit-restore` in .venv/bin.
$(NATIVE_STAMP): $(NATIVE_SOURCES) | setup
	. .venv/bin/activate && PIP_QUIET=1 maturin develop --release --quiet
	@touch $@

demo: native
	$(PYTHON) -m tools.demo

check: check-python check-rust

# The cheapest check first: who broke the layout should not wait for a compiler.
check-python: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

check-rust: setup
	$(CARGO) fmt $(MANIFEST) --all --check
	$(CARGO) clippy $(MANIFEST) --workspace --all-targets --quiet -- -D warnings

test: check test-rust test-python

test-rust: setup
	$(CARGO) test $(MANIFEST) --workspace --quiet

test-python: native
	$(PYTHON) -m pytest -m 'not long and not newer_libnbd' $(PYTEST_ARGS)

# A client that Debian 12 does not have: extended headers and BLOCK_STATUS payloads from libnbd.
test-libnbd: native
	tools/build-libnbd.sh >/dev/null
	$(PYTHON) -m pytest -m newer_libnbd tests/interop/test_clients_libnbd.py $(PYTEST_ARGS)
	PYTHONPATH=.cache/libnbd/python $(PYTHON) -m pytest tests/interop/test_negotiation.py $(PYTEST_ARGS)

# The kernel's own nbd driver, which the machine that tests run on may not have.
test-guest: native
	$(PYTHON) -m tests.guest

# Optimized, but with the assertions that a release build leaves out.
test-long: native
	CDP_SIM_LONG=20 CARGO_PROFILE_TEST_OPT_LEVEL=3 $(CARGO) test $(MANIFEST) -p cdp-sim --quiet
	CDP_HISTORY_WRITES=10000000 CARGO_PROFILE_TEST_OPT_LEVEL=3 $(CARGO) test $(MANIFEST) -p cdp-bench --quiet
	$(PYTHON) -m pytest -m long $(PYTEST_ARGS)

bench: native
	$(PYTHON) -m benchmarks $(if $(QUICK),--quick) $(BENCH_ARGS)

bench-restore: native
	$(PYTHON) -m benchmarks.restore $(BENCH_ARGS)

fuzz: native
	tools/fuzz.sh $(FUZZ_SECONDS)

format: setup
	$(PYTHON) -m ruff check --fix-only .
	$(PYTHON) -m ruff format .
	$(CARGO) fmt $(MANIFEST) --all

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis native/target native/fuzz/target benchmarks/results
	find cdp -name '_native*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
