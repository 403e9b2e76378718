# The two commands of the README, and what they are made of. Each installs what is missing first.
BUILD := build/release
JOBS  ?= $(shell nproc)
GPUS  ?= $(or $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | \
           sort -u | paste -sd ';'),80;86;89;90;100;120)

.PHONY: demo test build cuda bench setup lint clean

demo: build
	$(BUILD)/bin/freekv demo

build: setup
	cmake --preset release -DFREEKV_TESTS=OFF -DFREEKV_BENCH=OFF >/dev/null
	cmake --build --preset release --target freekv -j $(JOBS)

# With the CUDA backend, for the GPUs of this machine or, where there are none, for all it supports.
cuda: setup
	tools/setup.sh cuda
	cmake --preset cuda -DFREEKV_TESTS=OFF -DFREEKV_BENCH=OFF -DFREEKV_CUDA_ARCHITECTURES="$(GPUS)" >/dev/null
	cmake --build --preset cuda --target freekv freekv_cuda -j $(JOBS)

test:
	tools/setup.sh test
	tools/test.sh

bench:
	tools/setup.sh bench
	bench/run_all.sh

setup:
	@tools/setup.sh build

lint:
	tools/setup.sh test
	tools/lint.sh

clean:
	rm -rf build
