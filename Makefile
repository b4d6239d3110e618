# `make demo` and `make check` do everything on a fresh Debian 12 or Ubuntu 24.04: packages, build, run.
# The rest of the project is CMake with presets (CMakePresets.json); nothing here is needed to use that directly.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= /usr/bin/python3
VENV := .venv
PYTEST := $(VENV)/bin/python -m pytest
CMAKE_ARGS := $(if $(shell command -v ccache),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
CTEST_ARGS := --output-on-failure --no-tests=error -j $(shell nproc)
SOURCES = $(shell find src tests include bench -name '*.h' -o -name '*.cc' -o -name '*.inc' 2>/dev/null)

.PHONY: help build demo check check-long eval compare format tidy clean \
        packages-build packages-check format-check release-all asan-all tsan-all: %-all: packages-check build/%/build.ninja
	cmake --build build/$*

check-release: release-all $(VENV)/.stamp
	ctest --test-dir build/release $(CTEST_ARGS)
	$(PYTEST) tests

# Every golden, once: their variants that must give the same bits are for the optimized build.
check-goldens-asan: packages-check build/asan/build.ninja $(VENV)/.stamp
	cmake --build build/asan --target fulgur
	FULGUR=build/asan/bin/fulgur $(PYTEST) tests/golden -k 'not do_not_depend'

check-asan: asan-all $(VENV)/.stamp
	ctest --test-dir build/asan $(CTEST_ARGS)
	FULGUR=build/asan/bin/fulgur $(PYTEST) tests/golden tests/e2e

check-tsan: tsan-all $(VENV)/.stamp
	ctest --test-dir build/tsan $(CTEST_ARGS) -L 'unit/(base|ops|model|runtime)'
	FULGUR=build/tsan/bin/fulgur $(PYTEST) tests/golden -k 'do_not_depend and full'
