#!/usr/bin/env bash
# tests/fuzz/run.sh [SECONDS]: builds the fuzz preset and runs each target for that long (60), from
# the committed corpus and what earlier runs found. Fails on the first finding, whose input is then
# in the build folder: fix it, and add the input to tests/fuzz/corpus/<target>/.
# FREEKV_FUZZ_BUILD sets another build folder.
set -euo pipefail
seconds=${1:-60}
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${FREEKV_FUZZ_BUILD:-$root/build/fuzz}
cd "$root"
[ -f "$build/build.ninja" ] || cmake --preset fuzz -B "$build" >/dev/null
targets=(gguf safetensors tokenizer tokenizer_json jinja)
cmake --build "$build" --target "${targets[@]/#/fuzz_}"
for target in "${targets[@]}"; do
  grown=$build/corpus/$target
  mkdir -p "$grown"
  echo "fuzz_$target for $seconds s"
  # A single input may take 10 s and 512 MiB: more is a hang or an allocation by a claimed size.
  if ! "$build/bin/fuzz_$target" "$grown" "tests/fuzz/corpus/$target" -max_total_time="$seconds" \
      -max_len=16384 -timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=512 -print_final_stats=1 \
      -artifact_prefix="$build/" >"$build/fuzz_$target.log" 2>&1; then
    tail -n 40 "$build/fuzz_$target.log"
    exit 1
  fi
  grep -E '^(Done|stat::)' "$build/fuzz_$target.log"
done
