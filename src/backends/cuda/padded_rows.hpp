// Heads as prefill's attention has them, in rows that may be longer than the head, on the host.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/cuda/layout.hpp"
#include "core/dtype.hpp"
#include "core/view.hpp"

namespace freekv::cuda {

/// Rows of `stride` values, of which the first d are wanted, to [T, heads, d].
inline void load_padded_rows(KvType type, const std::byte* from, int64_t stride,
                             View<float, 3> to) {
  const DType dtype = type == KvType::kBF16 ? DType::kBF16 : DType::kF16;
  const int64_t rows = to.shape(0) * to.shape(1), dim = to.shape(2);
  for (int64_t row = 0; row < rows; ++row) {
    load_row(dtype, from + row_bytes(dtype, row * stride),
             {to.data() + row * dim, static_cast<size_t>(dim)});
  }
}

}  // namespace freekv::cuda
