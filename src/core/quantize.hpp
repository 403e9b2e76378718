// From f32 to the types weights are stored in.
#pragma once

#include <cstddef>
#include <span>

#include "core/dtype.hpp"

namespace freekv {

/// True for the types quantize_row() writes: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.
bool can_quantize(DType dtype);

/// Writes a row as `dtype` into row_bytes(dtype, values.size()) bytes, each block as the gguf
/// Python package (and so ggml's reference) does, bit for bit. F16 and BF16 round to nearest even.
/// A block with a value that is not finite becomes all NaN, so that the damage shows. Throws
/// Error(kUnsupported) for other types, kInvalidArgument for a row that is not whole blocks.
void quantize_row(DType dtype, std::span<const float> values, std::byte* row);

}  // namespace freekv
