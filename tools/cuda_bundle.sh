#!/usr/bin/env bash
# Builds the CUDA tests and benchmarks (no GPU needed) and puts them, stripped, with the libraries
# that a bare machine lacks, into build/cuda-bundle. tools/cuda_check.sh runs them from there.
# GPUs to build for: tools/cuda_bundle.sh [ARCHITECTURES], for example 90 or "80;90" (default: 90).
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/cuda-bundle
programs=(cuda_tests cuda_decode cuda_prefill)
tools/setup.sh cuda
cmake --preset cuda -DFREEKV_CUDA_ARCHITECTURES="${1:-90}" >/dev/null
cmake --build --preset cuda --target "${programs[@]}" -j "${JOBS:-$(nproc)}"
rm -rf "$out"
mkdir -p "$out/lib"
for program in "${programs[@]}"; do
  strip -o "$out/$program" "build/cuda/bin/$program"
  # The C and C++ run-time libraries, the driver and cuBLAS (half a gigabyte) are the other
  # machine's own.
  ldd "build/cuda/bin/$program" | awk '/=> \// {print $3}' |
    grep -v -E '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libcuda|libcublas|libcublasLt)\.so' |
    xargs -r -I{} cp -Ln {} "$out/lib/"
done
du -sh "$out"
