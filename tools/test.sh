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

# Sanitizers run all but the tests labelled "slow", which compute for long and share no new code.
sanitize() {
  build_preset "$1" &&
    ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 \
      ctest --test-dir "build/$1" --output-on-failure -j "$jobs" -LE slow
}

step "layers" python3 tools/check_layers.py
step "format" tools/lint.sh format
step "release build" build_preset release
step "unit, property and invariant tests" ctest_preset release
step "command line" .venv/bin/python tests/cli/test_cli.py
step "parity with PyTorch" .venv/bin/python tests/parity/test_logits.py
step "a policy from outside the tree" tests/extra_policy/run.sh
step "asan and ubsan" sanitize asan-ubsan
step "tsan" sanitize tsan
step "fuzz" tests/fuzz/run.sh 20

for name in "${failed[@]+"${failed[@]}"}"; do echo "failed: $name"; done
echo "$passed passed, ${#failed[@]} failed"
((${#failed[@]} == 0))
