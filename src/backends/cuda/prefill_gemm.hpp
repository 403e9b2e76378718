// Matrix products of prefill, by cuBLASLt: bound by arithmetic.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

namespace freekv::cuda {

enum class GemmOutput : uint8_t { kF32, kBF16 };

/// out[t, n] (+)= x[t] . weight[n], summed in f32: x [rows, K] bf16, weight [N, K] bf16, out [rows,
/// N]. K and N are multiples of 8; pointers are multiples of 16 bytes.
struct GemmParams {
  const void* x = nullptr;
  const void* weight = nullptr;
  void* out = nullptr;
  GemmOutput type = GemmOutput::kF32;
  int64_t rows = 0;
  int64_t n = 0;
  int64_t k = 0;
  bool accumulate = false;  // f32 only
};

/// A cuBLASLt handle, its workspace on the current device, and the algorithm chosen for every shape
/// so far. Used by one thread and, since the workspace is one, on one stream at a time.
class Gemm {
 public:
  /// Throws Error(kDevice) where cuBLASLt does not start.
  Gemm();
  ~Gemm();
  Gemm(const Gemm&) = delete;
  Gemm& operator=(const Gemm&) = delete;

  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;

  /// Throws Error(kUnsupported) where cuBLASLt has no algorithm for the shape.
  void run(const GemmParams& params, cudaStream_t stream);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace freekv::cuda
