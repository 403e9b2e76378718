#!/usr/bin/env bash
# Times commits against each other on one GPU, in turn: machines and hours differ by more than most
# changes do.
#   cuda_compare.sh build ARCHITECTURES COMMIT ...   without a GPU: each into build/cuda-compare
#   cuda_compare.sh test [FILTER]                    with one: the CUDA tests of each
#   cuda_compare.sh run ROUNDS OPTIONS ...           with one: freekv bench OPTIONS of each, in turn
# The table has the median of the rounds, and of what part of the first commit's time that is.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/cuda_libraries.sh
folder=build/cuda-compare
tree=$folder-tree  # apart, so that the folder can be carried to a GPU by itself

usage() {
  sed -n '2,7s/^# *//p' "$0" >&2
  exit 2
}

build() {
  local architectures="$1" number=0 commit id
  shift
  (($#)) || usage
  rm -rf "$folder"
  mkdir -p "$folder"
  [[ -e $tree ]] || git worktree add --quiet --force --detach "$tree"
  for commit in "$@"; do
    id=$(git rev-parse --short "$commit")
    number=$((number + 1))
    git -C "$tree" checkout --quiet --detach "$id"
    "$tree/tools/cuda_bundle.sh" "$architectures"
    XZ_OPT=-T0 tar -cJf "$folder/$number-$id.tar.xz" -C "$tree/build/cuda-bundle" .
  done
  ls -l "$folder"
}

# The folders of all commits in their order, unpacked.
unpacked() {
  local archive to
  for archive in "$folder"/*.tar.xz; do
    to=${archive%.tar.xz}
    [[ -e $to ]] || python3 -m tarfile -e "$archive" "$to" >/dev/null
    chmod +x "$to"/*
    echo "$to"
  done
}

with_libraries() {
  local bundle="$1"
  shift
  LD_LIBRARY_PATH="$bundle/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$@"
}

run_tests() {
  local bundle failed=0
  for bundle in $(unpacked); do
    echo "== ${bundle##*/}"
    with_libraries "$bundle" "$bundle/cuda_tests" --gtest_brief=1 --gtest_filter="${1:-*}" ||
      failed=1
  done
  return $failed
}

run_rounds() {
  local rounds="$1" round bundle bundles
  shift
  bundles=$(unpacked)
  rm -f "$folder"/*/round*.json
  for ((round = 1; round <= rounds; ++round)); do
    for bundle in $bundles; do
      with_libraries "$bundle" "$bundle/freekv" bench "$@" --json "$bundle/round$round.json" \
        >/dev/null
    done
  done
  # shellcheck disable=SC2086  # one word per commit
  python3 - $bundles <<'PYTHON'
import collections
import glob
import json
import statistics
import sys

times = collections.defaultdict(dict)  # of a row: by commit, one per round
for bundle in sys.argv[1:]:
    for name in sorted(glob.glob(f"{bundle}/round*.json")):
        content = json.load(open(name, encoding="utf-8"))
        for row in content["rows"] if isinstance(content, dict) else content:
            what = next(key for key in ("decode_ms", "prefill_ms") if key in row)
            label = " ".join(str(row[key]) for key in ("policy", "context", "tokens", "batch")
                             if key in row)
            times[what, label].setdefault(bundle, []).append(row[what])
commits = [bundle.rsplit("-", 1)[1] for bundle in sys.argv[1:]]
print(f"{'':34}" + "".join(f"{commit:>18}" for commit in commits))
for (what, label), of in times.items():
    medians = [statistics.median(of[bundle]) for bundle in sys.argv[1:]]
    print(f"{what} {label:<24}" + "".join(f"{ms:10.3f} {ms / medians[0]:6.1%} " for ms in medians))
PYTHON
}

case "${1:-} ${2:-}" in
  "build "?*) shift && build "$@" ;;
  "test "*) run_tests "${2:-}" ;;
  "run "?*) shift && run_rounds "$@" ;;
  *) usage ;;
esac
