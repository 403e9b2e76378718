#!/usr/bin/env bash
# Builds the program, its CUDA backend and the CUDA tests (no GPU needed) and puts them, stripped,
# with the libraries that a bare machine lacks, into build/cuda-bundle. tools/cuda_check.sh runs them
# from there.
# GPUs to build for: tools/cuda_bundle.sh [ARCHITECTURES], for example 90 or "80;90" (default: 90).
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/cuda-bundle
programs=(freekv cuda_tests cuda_engine_tests)
library=libfreekv_cuda.so  # what freekv --backend cuda loads, from beside itself
tools/setup.sh test  # the CUDA tests need GoogleTest
tools/setup.sh cuda
cmake --preset cuda -DFREEKV_CUDA_ARCHITECTURES="${1:-90}" >/dev/null
cmake --build --preset cuda --target "${programs[@]}" freekv_cuda -j "${JOBS:-$(nproc)}"
rm -rf "$out"
mkdir -p "$out/lib"
strip --strip-unneeded -o "$out/$library" "build/cuda/lib/$library"
for program in "${programs[@]}"; do
  strip -o "$out/$program" "build/cuda/bin/$program"
done
# The C and C++ run-time libraries, the driver and cuBLAS (half a gigabyte) are the other machine's
# own.
ldd "build/cuda/lib/$library" "${programs[@]/#/build/cuda/bin/}" | awk '/=> \// {print $3}' | sort -u |
  grep -v -E '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libcuda|libcublas|libcublasLt)\.so' |
  xargs -r -I{} cp -Ln {} "$out/lib/"
du -sh "$out"
