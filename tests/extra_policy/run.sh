#!/usr/bin/env bash
# Adds a policy from outside the tree, the one that docs/adding_a_policy.md walks through, and runs
# the invariant suite on it. Takes the build folder as its argument (default build/extra-policy).
set -euo pipefail
root="$(cd "$(dirname "$0")/../.." && pwd)"
build="${1:-$root/build/extra-policy}"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# The page's one C++ block is the whole file.
awk '/^```cpp$/ {inside = 1; next} /^```$/ {inside = 0} inside' \
  "$root/docs/adding_a_policy.md" > "$scratch/spread.cc"
test -s "$scratch/spread.cc" || { echo "docs/adding_a_policy.md has no C++ block" >&2; exit 1; }

cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DFREEKV_BENCH=OFF \
  -DFREEKV_EXTRA_POLICY_DIRS="$scratch" > /dev/null
cmake --build "$build" --target invariant_tests invariant_allocation_tests policies_tests

for program in invariant_tests invariant_allocation_tests; do
  "$build/bin/$program" --gtest_list_tests --gtest_filter='*/spread*' | grep -q '/spread' ||
    { echo "$program does not run the new policy" >&2; exit 1; }
  "$build/bin/$program" --gtest_filter='*/spread*' --gtest_brief=1
done
"$build/bin/policies_tests" --gtest_brief=1
