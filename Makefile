# The two commands of the README, and what they are made of. Each installs what is missing first.
BUILD := build/release
JOBS  ?= $(shell nproc)

.PHONY: demo test build bench setup lint clean

demo: build
	$(BUILD)/bin/freekv demo

build: setup
	cmake --preset release -DFREEKV_TESTS=OFF -DFREEKV_BENCH=OFF >/dev/null
	cmake --build --preset release --target freekv -j $(JOBS)

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
