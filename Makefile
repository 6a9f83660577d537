# Each target sets up what it needs: an environment in .venv, from the exact versions of requirements.lock.
PYTHON := .venv/bin/python
READY := .venv/ready
STARTED := $(shell date +%s)

.PHONY: demo test check lint fast nightly bench device compare miniature lock clean

demo: $(READY)  ## Train on generated digits, test on real ones; about 4 minutes on two cores
	@output=runs/digits; number=2; \
	while [ -e "$$output" ]; do output=runs/digits-$$number; number=$$((number + 1)); done; \
	$(PYTHON) -m ray_jobs.train ray_jobs/configs/digits.yaml output="$$output"

test: check  ## All checks, and the tests that prove each promise once; about 10 minutes on two cores
	$(PYTHON) -m pytest -m "(ray or slow) and not nightly" --durations=10
	@echo "make test: passed after $$(( $$(date +%s) - $(STARTED) )) s, set-up included"

check: $(READY)  ## Lint, types, import contracts and the fast tests
	@$(MAKE) --no-print-directory -j 2 lint fast

lint: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/pyright

fast: $(READY)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 -m "not ray and not slow and not nightly" --durations=10

nightly: check  ## All tests there are, and the benchmarks' ratios against their floors; about an hour and a half on two cores
	$(PYTHON) -m pytest -m "ray or slow or nightly" --durations=50
	$(PYTHON) -m benchmarks.nightly
	@echo "make nightly: passed after $$(( $$(date +%s) - $(STARTED) )) s"

bench: $(READY)  ## How much of the generators' rate reaches training
	$(PYTHON) -m benchmarks.delivery ray_jobs/configs/benchmark.yaml

$(READY): pyproject.toml requirements.lock
	python3 -m venv .venv
	$(PYTHON) -m pip install --quiet --constraint requirements.lock uv || true
	@# compiled: where PYTHONDONTWRITEBYTECODE is set, each process would otherwise compile torch and Ray again
	$(PYTHON) -m uv pip install --quiet --compile-bytecode --python $(PYTHON) --constraint requirements.lock --editable ".[dev]" || \
		$(PYTHON) -m pip install --quiet --constraint requirements.lock --editable ".[dev]"
	@touch $@

compare: $(READY)  ## Stream, generate first, keep and replay, real images: the same budget; within 15 minutes on two cores
	@output=runs/compare; number=2; \
	while [ -e "$$output" ]; do output=runs/compare-$$number; number=$$((number + 1)); done; \
	$(PYTHON) -m ray_jobs.compare ray_jobs/configs/compare.yaml output="$$output"

miniature: $(READY)  ## The paper's experiments on digits, into docs; within 20 minutes on two cores
	@output=docs/miniature; number=2; \
	while [ -e "$$output" ]; do output=docs/miniature-$$number; number=$$((number + 1)); done; \
	$(PYTHON) -m ray_jobs.miniature ray_jobs/configs/miniature.yaml output="$$output"

device: $(READY)  ## What one GPU does: its tests, the engine, training steps, copies; within 8 minutes on an H200
	@output=runs/device; number=2; \
	while [ -e "$$output" ]; do output=runs/device-$$number; number=$$((number + 1)); done; \
	$(PYTHON) -m benchmarks.device --out "$$output"

lock: $(READY)  ## Write the versions that are installed to requirements.lock
	$(PYTHON) -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' > requirements.lock

clean:  ## Remove the environment and caches; runs stay
	rm -rf .venv .ruff_cache .pytest_cache .import_linter_cache figment_stream.egg-info
