// The BLAS libraries of this machine, as yardsticks: the program itself uses none.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace freekv::bench {

struct BlasLibrary {
  std::string name;
  std::function<void(int threads)> set_threads;
  /// out [rows, n] = x [rows, k] weight [n, k]^T, all row-major f32.
  std::function<void(const float* x, const float* weight, int64_t rows, int64_t n, int64_t k,
                     float* out)>
      multiply;
};

/// Those of OpenBLAS, BLIS and oneDNN that can be loaded; loads them at the first call.
const std::vector<BlasLibrary>& blas_libraries();

}  // namespace freekv::bench
