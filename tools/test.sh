#!/usr/bin/env bash
# Everything `make test` and CI check, cheapest first. Ends with "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/.."
jobs="${JOBS:-$(nproc)}"
passed=0
failed=()

# step NAME COMMAND...: runs one check, keeps going after a failure.
step() {
  local name="$1"
  shift
  local start=$SECONDS
  echo "== $name"
  if "$@"; then
    passed=$((passed + 1))
    echo "-- $name: ok, $((SECONDS - start)) s"
  else
    failed+=("$name")
    echo "-- $name: FAILED, $((SECONDS - start)) s"
  fi
}

build_preset() { cmake --preset "$1" >/dev/null && cmake --build --preset "$1" -j "$jobs"; }
ctest_preset() { ctest --test-dir "build/$1" --output-on-failure -j "$jobs"; }

# sanitize PRESET TESTS TARGET...: builds the targets and runs the tests whose names match.
sanitize() {
  cmake --preset "$1" >/dev/null &&
    cmake --build --preset "$1" -j "$jobs" --target "${@:3}" &&
    ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 \
      ctest --test-dir "build/$1" --output-on-failure -j "$jobs" -R "$2"
}

# The scalar backend's own tests and the invariants of the cache run its code here: policies over it
# would run the same again.
asan() {
  GTEST_FILTER="-*EveryPolicy*_reference" sanitize asan-ubsan "_tests?(_|$)" test_programs
}

# ThreadSanitizer looks at the programs that start threads. Left out is what would repeat that: the
# scalar backend, policy keys that change arithmetic alone, policies without a slow tier, whose
# workers do what those of the others do, and operations that start none.
tsan() {
  local keys='*/*_pooling_*:*/*_sketch_*:*/*_tau_*:*/*_resident_*:*/*_epsilon_*'
  local policies='*/*raas*:*/*h2o*:*/*snapkv*:*/*razor*:*/*quest*:*/*oracle*:*/*streaming*'
  local single='*Sketch.*:*Selection.*:ExactPages.*:PrefillMass.Of*:PrefillAttention.Ref*'
  local programs=({core,device,backends,kvcache,model,invariant,engine_invariant,evaluation}_tests)
  GTEST_FILTER="-$keys:$policies:$single:*_reference*" \
    sanitize tsan "^($(IFS='|'; echo "${programs[*]}"))" "${programs[@]}"
}

step "layers" python3 tools/check_layers.py
step "format" tools/lint.sh format
step "release build" build_preset release
step "unit, property and invariant tests" ctest_preset release
step "command line" .venv/bin/python tests/cli/test_cli.py
step "chat in a terminal" .venv/bin/python tests/chat/test_chat.py
step "chat templates" .venv/bin/python tests/parity/test_templates.py
step "malformed checkpoints" .venv/bin/python tests/cli/test_checkpoints.py
step "evaluation from the command line" .venv/bin/python tests/cli/test_eval.py
step "parity with PyTorch" .venv/bin/python tests/parity/test_logits.py
step "parity with transformers" .venv/bin/python tests/parity/test_architectures.py
step "converted tokenizers" .venv/bin/python tests/parity/test_convert.py
step "parity with the gguf package" .venv/bin/python tests/parity/test_quants.py
step "parity with Hugging Face tokenizers" .venv/bin/python tests/parity/test_tokenizers.py
step "a policy from outside the tree" tests/extra_policy/run.sh
if command -v nvcc >/dev/null; then
  # Compiled for one architecture; what needs a GPU to run is run by tools/cuda_check.sh.
  step "CUDA compiles" tools/cuda_bundle.sh 90
  step "CUDA without a GPU" ctest --test-dir build/cuda --output-on-failure --no-tests=error -R without_gpu
else
  echo "== no nvcc: the CUDA backend is not compiled"
fi
step "asan and ubsan" asan
step "tsan" tsan
step "fuzz" tests/fuzz/run.sh 20

for name in "${failed[@]+"${failed[@]}"}"; do echo "failed: $name"; done
echo "$passed passed, ${#failed[@]} failed"
((${#failed[@]} == 0))
