# Two commands matter: `make demo` and `make test`. Both install what is missing, build and run; both
# may be run again at will and then take seconds plus the run itself.
PRESET ?= release
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)

.DEFAULT_GOAL := help
.PHONY: help setup build program cuda demo test unit lint asan tsan fuzzers fuzz format clean

help:
	@echo "make demo    set up, build, run the whole main job on the embedded model: demo_report.html"
	@echo "make test    set up, build, run every test"
	@echo "make unit    build, run the unit tests: minutes"
	@echo "make lint    the ladder, clang-format, clang-tidy, what documents promise"
	@echo "make cuda    build against a CUDA build of torch: TORCH_PYTHON=/path/to/python (docs/gpu.md)"
	@echo "make asan    build and run the unit tests under the address and undefined-behaviour sanitizers"
	@echo "make tsan    build and run the unit tests that start threads under the thread sanitizer"
	@echo "make fuzz    run every fuzz target for SECONDS=60, going on where the last run ended"
	@echo "make format  clang-format every source"
	@echo "make clean   remove what was built, not what was installed"

setup:
	@echo "[setup] system packages (tools/packages.txt), wheels in .venv (tools/requirements.txt)"
	@tools/setup.sh

$(BUILD)/build.ninja: CMakePresets.json tools/requirements.txt | setup
	@echo "[configure] cmake --preset $(PRESET)"
	@cmake --preset $(PRESET) >/dev/null
	@touch $@

build: setup $(BUILD)/build.ninja
	@echo "[build] $(BUILD), $(JOBS) at a time"
	@cmake --build $(BUILD) --parallel $(JOBS)

# What the demo runs and no more: a newcomer waits for no test.
program: setup $(BUILD)/build.ninja
	@echo "[build] $(BUILD)/trestle, $(JOBS) at a time"
	@cmake --build $(BUILD) --parallel $(JOBS) --target trestle

# Against the torch of another python, which has CUDA; the rest as in the other builds.
cuda: setup
	@test -n "$(TORCH_PYTHON)" || { echo "[cuda] make cuda TORCH_PYTHON=/path/to/python: one that has a CUDA build of torch"; exit 2; }
	@echo "[configure] cmake --preset cuda, torch of $(TORCH_PYTHON)"
	@cmake --preset cuda -DTRESTLE_TORCH_PYTHON=$(TORCH_PYTHON) >/dev/null
	@echo "[build] build/cuda/trestle, $(JOBS) at a time"
	@cmake --build build/cuda --parallel $(JOBS) --target trestle

demo: program
	@echo "[demo] $(BUILD)/trestle demo"
	@$(BUILD)/trestle demo

test: build fuzzers
	@echo "[test] ctest --test-dir $(BUILD)"
	@ctest --test-dir $(BUILD) --output-on-failure --parallel $(JOBS) </dev/null

unit: build
	@ctest --test-dir $(BUILD) --label-regex unit --output-on-failure --parallel $(JOBS)

lint: setup $(BUILD)/build.ninja
	@ctest --test-dir $(BUILD) --label-regex lint --output-on-failure --parallel $(JOBS)

asan:
	@$(MAKE) --no-print-directory build PRESET=asan
	@ctest --test-dir build/asan --label-regex unit --output-on-failure

tsan:
	@$(MAKE) --no-print-directory build PRESET=tsan
	@ctest --test-dir build/tsan --label-regex unit --output-on-failure

fuzzers:
	@$(MAKE) --no-print-directory build PRESET=fuzz

SECONDS ?= 60
fuzz: fuzzers
	@.venv/bin/python fuzz/run.py --build build/fuzz --seconds $(SECONDS)

format:
	@git ls-files --cached --others --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' | xargs .venv/bin/clang-format -i

clean:
	rm -rf build/release build/cuda build/dev build/asan build/tsan build/tidy build/fuzz
