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
PYTEST_PARALLEL := $(PYTEST) -n $(shell nproc) --dist loadgroup  # what measures CPU time is marked long, and runs alone
CMAKE_ARGS := $(if $(shell command -v ccache),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
# Without these ccache keeps nothing that has precompiled headers.
export CCACHE_SLOPPINESS ?= pch_defines,time_macros
FUZZ_SECONDS ?= 20  # of each target
CTEST_ARGS := --output-on-failure --no-tests=error -j $(shell nproc)
SOURCES = $(shell find src tests include bench examples -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' 2>/dev/null)

.PHONY: help build demo check check-long eval compare format tidy clean \
        packages-build packages-check packages-fuzz format-check release-all asan-all tsan-all \
        check-release check-goldens-asan check-bits check-asan check-tsan check-fuzz

help:  ## What there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 14

build: packages-build build/release/build.ninja  ## The release build of bin/fulgur alone
	cmake --build build/release --target fulgur

demo: build  ## Ask the bundled model for a number named once in 3,889 tokens
	build/release/bin/fulgur demo

check: packages-check $(VENV)/.stamp format-check check-release check-goldens-asan  ## All tests that fit in 20 minutes on 2 cores

check-long: check check-bits check-asan check-tsan check-fuzz tidy  ## And the long ones: all under sanitizers, whole evaluation sets, every string, drawn checkpoints, fuzzing, clang-tidy
	FULGUR_SCHEDULES=10000 build/release/tests/unit/runtime/scheduler_test --gtest_brief=1
	FULGUR_REQUESTS=200 build/release/tests/unit/runtime/engine_test --gtest_brief=1 --gtest_filter='*Company*'
	RC_PARAMS="max_success=2000" build/release/tests/property/property_test
	$(PYTEST) tests --long
	$(VENV)/bin/python tools/eval_mini.py

eval: build $(VENV)/.stamp  ## mini-v32's tables, whole, in both precisions
	$(VENV)/bin/python tools/eval_mini.py

compare: build .venv-compare/.stamp  ## Speed beside transformers, in one run
	.venv-compare/bin/python tools/compare_transformers.py

format: packages-check  ## Lay the sources out by .clang-format
	clang-format-14 -i $(SOURCES)

tidy: packages-check  ## clang-tidy over everything
	cmake --preset release -B build/tidy -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON  # clang can't read GCC's
	run-clang-tidy-14 -quiet -p build/tidy '$(CURDIR)/src/.*'

clean:  ## Remove what was built
	rm -rf build $(VENV) .venv-compare .venv-cuda

packages-build:
	@tools/install_packages.sh build

packages-check:
	@tools/install_packages.sh build check

packages-fuzz:
	@tools/install_packages.sh build fuzz

build/fuzz/build.ninja: | packages-fuzz

build/%/build.ninja: | packages-build
	cmake --preset $* $(CMAKE_ARGS) $(CMAKE_ARGS_$*)

$(VENV)/.stamp: tools/requirements-test.txt | packages-check
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q --require-hashes --no-deps --only-binary=:all: -r $<
	touch $@

.venv-compare/.stamp: tools/requirements-compare.txt | packages-check
	rm -rf .venv-compare
	$(PYTHON) -m venv .venv-compare
	.venv-compare/bin/python -m pip install -q --require-hashes --no-deps --only-binary=:all: -r $<
	touch $@

# A CUDA toolkit as CMake expects one.
.venv-cuda/.stamp: tools/requirements-cuda.txt | packages-check
	rm -rf .venv-cuda
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install -q --require-hashes --no-deps --only-binary=:all: -r $<
	cd .venv-cuda && ln -s lib/python3.*/site-packages/nvidia/cu13 toolkit
	ln -s lib .venv-cuda/toolkit/lib64
	ln -s libcudart.so.13 .venv-cuda/toolkit/lib/libcudart.so
	touch $@

format-check: packages-check
	@clang-format-14 --dry-run -Werror $(SOURCES)

release-all asan-all tsan-all: %-all: packages-check build/%/build.ninja
	cmake --build build/$*

check-release: release-all $(VENV)/.stamp
	ctest --test-dir build/release $(CTEST_ARGS)
	$(PYTEST_PARALLEL) tests

# Every golden, once: their variants that must give the same bits are for the optimized build.
check-goldens-asan: packages-check build/asan/build.ninja $(VENV)/.stamp
	cmake --build build/asan --target fulgur
	FULGUR=build/asan/bin/fulgur $(PYTEST_PARALLEL) tests/golden -k 'not do_not_depend'

# A bit of every byte of every header and index; check-release flips one in every 97th.
check-bits: asan-all
	seq 0 $$(($$(nproc) - 1)) | xargs -P0 -I{} env FULGUR_TEST_STRIDE=1 GTEST_TOTAL_SHARDS=$$(nproc) GTEST_SHARD_INDEX={} \
	  build/asan/tests/fault/fault_test --gtest_brief=1 --gtest_filter='*HeaderBytes.*Flipped*'

check-asan: asan-all $(VENV)/.stamp
	ctest --test-dir build/asan $(CTEST_ARGS)
	FULGUR=build/asan/bin/fulgur $(PYTEST_PARALLEL) tests/golden tests/e2e

check-tsan: tsan-all $(VENV)/.stamp
	ctest --test-dir build/tsan $(CTEST_ARGS) -L 'unit/(base|ops|model|runtime)'
	FULGUR=build/tsan/bin/fulgur $(PYTEST) tests/golden -k 'do_not_depend and full'

# A short run of each; what it adds to the corpus stays in the build folder.
check-fuzz: packages-fuzz build/fuzz/build.ninja
	cmake --build build/fuzz --target fuzz
	for input in header index json config tokenizer; do \
	  mkdir -p build/fuzz/found/$$input; \
	  build/fuzz/bin/$${input}_fuzz -max_total_time=$(FUZZ_SECONDS) -timeout=10 -verbosity=0 -print_funcs=0 -print_final_stats=1 -artifact_prefix=build/fuzz/ \
	    -dict=tests/fuzz/$$input.dict build/fuzz/found/$$input tests/fuzz/corpus/$$input; \
	done
