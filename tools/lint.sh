#!/usr/bin/env bash
# lint.sh format: all sources are as clang-format leaves them. lint.sh: that, and clang-tidy.
set -euo pipefail
cd "$(dirname "$0")/.."
mapfile -t sources < <(git ls-files '*.cc' '*.hpp')
clang-format --dry-run --Werror "${sources[@]}"
[[ "${1:-}" == format ]] && exit 0
[[ -f build/release/compile_commands.json ]] || cmake --preset release >/dev/null
git ls-files '*.cc' | xargs -P "$(nproc)" -n 4 clang-tidy -quiet -p build/release
