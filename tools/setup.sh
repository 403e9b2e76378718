#!/usr/bin/env bash
# Installs what is missing for `build`, `test`, `bench` or `cuda` on Debian 12: as root with apt,
# otherwise it prints the one line to run. Python packages go to .venv in the repository. `cuda`
# brings headers and libraries that the CUDA toolkit (nvcc, installed by you) may lack.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose="${1:-build}"

packages=(g++ cmake ninja-build pkg-config libhwy-dev libfmt-dev libcli11-dev
          nlohmann-json3-dev libutf8proc-dev libeigen3-dev libedit-dev)
case "$purpose" in
  build) ;;
  test)  packages+=(libgtest-dev libgmock-dev librapidcheck-dev libpcre2-dev libbenchmark-dev clang
                    libclang-rt-14-dev clang-format clang-tidy ccache git python3 python3-venv) ;;
  bench) packages+=(libgtest-dev libgmock-dev librapidcheck-dev libpcre2-dev libbenchmark-dev ccache python3
                    python3-venv python3-dev
                    libopenblas0-pthread libblis4-pthread libdnnl2 gnuplot-nox) ;;  # yardsticks for our GEMM
  cuda)  packages+=(python3 python3-venv) ;;
  *) echo "usage: tools/setup.sh build|test|bench|cuda" >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
    missing+=("$package")
done
if ((${#missing[@]})); then
  install=(apt-get install -y --no-install-recommends "${missing[@]}")
  if [[ $(id -u) -ne 0 ]]; then
    echo "Some packages are missing. Run this line, then the same command again:" >&2
    echo "  sudo ${install[*]}" >&2
    exit 1
  fi
  echo "installing: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${install[@]}" >/dev/null
fi

# Python packages of the tests and benchmarks, once per list. Of those for CUDA only the headers and
# libraries inside are wanted, not the gigabytes of Python that they would bring.
requirements="tools/requirements-$purpose.txt"
options=()
[[ $purpose == cuda ]] && options=(--no-deps --no-compile)
if [[ -f $requirements ]]; then
  stamp=".venv/.installed-$purpose"
  if ! cmp -s "$requirements" "$stamp"; then
    [[ -x .venv/bin/python ]] || python3 -m venv .venv
    .venv/bin/pip install -q --disable-pip-version-check "${options[@]+"${options[@]}"}" \
      -r "$requirements"
    cp "$requirements" "$stamp"
  fi
fi
