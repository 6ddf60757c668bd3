# Warren: everything a person does with the checkout. `make` lists it.

SHELL := /bin/sh
.DEFAULT_GOAL := help

PY := .venv/bin/python
# One target directory for cargo and the build backend, so that each thing is built once.
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# PyO3's build script reads both, and everything after it starts anew when they change: they are
# what the build backend and maturin set.
export PYO3_PYTHON := $(CURDIR)/.venv/bin/python
export PYO3_BUILD_EXTENSION_MODULE := 1
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## check prerequisites, then build everything into .venv; starts nothing
	@python=$$(sh scripts/prerequisites.sh) && "$$python" scripts/setup.py

.PHONY: tools
tools: ## the first part of setup: .venv with the pinned requirements, nothing built
	@python=$$(sh scripts/prerequisites.sh) && "$$python" scripts/setup.py --requirements

.PHONY: dev
dev: ## rebuild in place, quickly, for work on Warren (PROFILE=release for a fast result, kept until PROFILE=dev)
	@python=$$(sh scripts/prerequisites.sh) && "$$python" scripts/setup.py --dev $(if $(PROFILE),--profile $(PROFILE))

.PHONY: run
run: setup ## start a one-node cluster, deploy a sample service, show it serving
	@$(PY) scripts/run_one_node.py start

.PHONY: stop
stop: ## stop what `make run` started and remove everything it left
	@test -x $(PY) || { echo "nothing to stop: .venv is not there"; exit 0; }; \
		$(PY) scripts/run_one_node.py stop

.PHONY: cluster
cluster: setup ## bring up MANAGERS=3 and WORKERS=3 on this machine, to play with (SIMULATED=1: no containerd)
	@$(PY) -m scripts.cluster start --managers $(or $(MANAGERS),3) --workers $(or $(WORKERS),3) \
		$(if $(SIMULATED),--simulated)

.PHONY: cluster-stop
cluster-stop: ## end what `make cluster` brought up and remove everything it left
	@test -x $(PY) || { echo "nothing to stop: .venv is not there"; exit 0; }; \
		$(PY) -m scripts.cluster stop

.PHONY: test
test: setup ## run all tests: Rust, Python, integration against real containerd
	cargo test --workspace --locked --quiet
	cargo test --package warren_core --locked --quiet --profile sim --features sim \
		--test sim_smoke --test sim_directed
	$(PY) -m pytest tests/contract tests/unit
	$(PY) -m pytest tests/integration
	$(PY) -m tests.cluster.chaos --seconds $(or $(CHAOS_SECONDS),120)
	$(PY) -m pytest tests/cluster

.PHONY: check
check: tools ## run all static checks
	ruff check .
	ruff format --check .
	cargo fmt --all --check
	@$(MAKE) --no-print-directory setup
	mypy
	$(PY) -m mypy.stubtest warren._core warren._histogram warren._cgroup --mypy-config-file pyproject.toml
	cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
	cargo clippy --package warren_core --lib --features python --locked --quiet -- -D warnings
	cargo clippy --package warren_core --all-targets --features sim --locked --quiet -- -D warnings
	$(PY) -m pytest tests/contract -q
	$(PY) scripts/check_advisories.py

.PHONY: metrics-audit
metrics-audit: setup ## compare docs/metrics.md with what daemons export; BLESS=1 writes it anew
	$(if $(BLESS),WARREN_BLESS=1) $(PY) -m pytest -q \
		tests/integration/test_three_managers.py -k a_worker_follows_the_leader

SIM := cargo run --package warren_core --locked --quiet --profile sim --features sim --example sim --
SIM_LENGTH := $(if $(MINUTES),--minutes $(MINUTES)) $(if $(QUIET),--quiet)

.PHONY: sim
sim: ## simulate clusters for SECONDS=60 or HOURS=n; SEED=n replays one (VERBOSE=1, MINUTES=60, QUIET=1)
	@$(SIM) $(SIM_LENGTH) $(if $(SEED),--seed $(SEED) $(if $(VERBOSE),--verbose) $(MUTANT),$(if \
		$(HOURS),--hours $(HOURS),--seconds $(or $(SECONDS),60)) $(if $(FROM),--from $(FROM)))

.PHONY: chaos
chaos: setup ## a real cluster, and faults at random, for SECONDS=120; SEED=n begins as before
	@$(PY) -m tests.cluster.chaos --seconds $(or $(SECONDS),120) $(if $(SEED),--seed $(SEED))

.PHONY: mutants
mutants: ## show that the simulator catches each planted fault (MUTANT=name for one)
	@$(SIM) mutants $(MUTANT) --minutes $(or $(MINUTES),15)

.PHONY: bench
bench: setup ## run the benchmarks, write benches/report (BENCH=name for one, QUICK=1 for small ones)
	@$(PY) -m benches._all $(BENCH:%=--bench %) $(if $(QUICK),--quick)

.PHONY: bench-compare
bench-compare: setup ## compare two kept runs of the benchmarks: A=previous and B=latest, or commits, or paths
	@$(PY) -m benches.compare $(or $(A),previous) $(or $(B),latest)

.PHONY: lock
lock: ## pin the newest allowed versions of the Python requirements (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --quiet --upgrade --group dev pyproject.toml --output-file requirements/lock.txt

.PHONY: clean
clean: ## remove everything that was built, .venv too; not the state of `make run`
	rm -rf .venv dist target .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf python/warren/bin python/warren/*.so python/warren/pb/*/*_pb2.py python/warren/pb/*/*_pb2.pyi
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
