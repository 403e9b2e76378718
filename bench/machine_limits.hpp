// What this machine can do at best, measured in the same run as what is compared with it.
#pragma once

#include <cstdint>
#include <string>

#include "device/buffer.hpp"
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
/// out [rows, n] = x [rows, k] weight [n, k]^T in f32. Passes are made between those of what is
/// compared with it, so that both see the same machine, busy or not.
class GemmYardstick {
 public:
  GemmYardstick(int threads, int64_t rows, int64_t n, int64_t k);

  /// Runs each library a few times.
  void pass();
  /// The best of all passes so far.
  const GemmRate& rate() const { return best_; }

 private:
  int threads_;
  int64_t rows_;
  int64_t n_;
  int64_t k_;
  Buffer x_;
  Buffer weight_;
  Buffer out_;
  GemmRate best_;
};

}  // namespace freekv::bench
