#!/usr/bin/env bash
# On a machine with a GPU: checks every kernel and prints the tables of docs/verification.md, from
# the binaries of tools/cuda_bundle.sh. Builds nothing. cuda_check.sh [FOLDER FOR JSON]
set -uo pipefail
cd "$(dirname "$0")/.."
bundle=build/cuda-bundle
out="${1:-build}"
export LD_LIBRARY_PATH="$PWD/$bundle/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
. tools/cuda_libraries.sh
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader || exit 2
failed=()
check() {
  "$@" || failed+=("$*")
}
check "$bundle/cuda_tests" --gtest_brief=1
check "$bundle/freekv" info
check "$bundle/cuda_engine_tests" --gtest_brief=1
check "$bundle/freekv" bench --backend cuda --kv-type bf16 --policies full quest freekv \
  --contexts 4096,16384,65536 --json "$out/cuda_bench_demo.json"
# bench_shape NAME OPTIONS: with weights and KV made up on the GPU; NAME is that of the JSON.
bench_shape() {
  local name="$1"
  shift
  check "$bundle/freekv" bench --backend cuda "$@" --json "$out/$name.json"
}
bench_shape cuda_decode_8b --shape llama-3.1-8b --policies full freekv \
  --contexts 4096,32768,131072 --batches 1,4 --split
# A full refresh of the selected set every step against none: at most 1.2 times the time.
for churn in 0 1; do
  bench_shape "cuda_decode_8b_churn$churn" --shape llama-3.1-8b --policies freekv \
    --contexts 32768 --drift 0 --churn "$churn"
done
bench_shape cuda_gather --gather-table
bench_shape cuda_ablation --shape llama-3.1-8b --ablation
bench_shape cuda_decode_8b_512k --shape llama-3.1-8b --policies freekv --contexts 524288
bench_shape cuda_decode_1b --shape llama-3.2-1b --policies full freekv --contexts 131072,1048576
bench_shape cuda_prefill_8b --shape llama-3.1-8b --prefill 8192,131072
bench_shape cuda_prefill_1b --shape llama-3.2-1b --prefill 8192,131072
if ((${#failed[@]})); then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
echo "all tests passed, all tables were made"
