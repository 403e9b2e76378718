#!/usr/bin/env bash
# Every speed figure of docs/verification.md: builds, measures, prints, and leaves JSON in
# benchmarks/results/. Takes about a quarter of an hour; keep the machine otherwise idle.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)"
.venv/bin/python bench/speed_bars.py --json benchmarks/results/cpu_speed_bars.json
.venv/bin/python bench/compare_llama_cpp.py --json benchmarks/results/cpu_llama_cpp.json
