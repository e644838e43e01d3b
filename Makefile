# Each target does all of its own set-up: .venv, pinned dependencies, git-lfs.
SHELL := /bin/bash
ARGS ?=

.PHONY: help test demo bench lint format science soak setup clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 16

test: setup ## format, lint, types and all tests: what has to pass
	@scripts/lint
	@scripts/pytest -n 2 -m "not science and not soak" $(ARGS)

demo: setup ## a real model through git, beside Git LFS: what each step stores
	@.venv/bin/python -m benchmarks.demo $(ARGS)

bench: setup ## every number that docs/benchmarks.md holds, measured against Git LFS
	@.venv/bin/python -m benchmarks.run $(ARGS)

lint: setup ## format, lint and types only
	@scripts/lint

format: setup ## rewrite the code in the house's format
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

science: setup ## the tests that check methods against known results
	@scripts/pytest -n 2 -m science $(ARGS)
	@.venv/bin/python -m tests.science.report

soak: setup ## the long-running tests; then python -m benchmarks.trust writes what they counted
	@scripts/pytest -m soak --junitxml=.cache/soak.xml $(ARGS)

setup: ## .venv with everything in it
	@scripts/setup

clean: ## away with .venv and all caches
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis git_theta/core/*.so
