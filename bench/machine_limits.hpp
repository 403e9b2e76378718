// What this machine can do at best, measured in the same run as what is compared with it.
#pragma once

#include <cstdint>
#include <string>

#include "device/execution_context.hpp"

namespace freekv::bench {

/// Bytes per second that all workers together read from a buffer of 1 GiB in order: the best of
/// several passes. Takes about half a second.
double read_bandwidth(ExecutionContext& ctx);

struct GemmRate {
  double flops = 0;  // per second; 0 if no library was found
  std::string library = "none";
};

/// The rate of the best BLAS present (OpenBLAS, BLIS, oneDNN; loaded at run time) for
/// out [rows, n] = x [rows, k] weight [n, k]^T in f32 on `threads` threads: the best of several
/// passes of each library.
GemmRate best_gemm_rate(int threads, int64_t rows, int64_t n, int64_t k);

}  // namespace freekv::bench
