// The storage types GGUF knows for tensors: enough of each to name it and to size its data.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/dtype.hpp"

namespace freekv {

/// A row of ne[0] values is ne[0] / block_values blocks of block_bytes bytes.
struct GgufTensorType {
  uint32_t id = 0;        // the number in the file
  std::string_view name;  // as in GGUF: "F32", "Q4_K", ...
  uint32_t block_values = 1;
  uint32_t block_bytes = 0;
  std::optional<DType> dtype;  // set when this library computes with the type
};

/// nullptr for a number that names no type (retired numbers included).
const GgufTensorType* find_gguf_tensor_type(uint32_t id);
/// The number that a file has for a type of this library.
uint32_t gguf_type_id(DType dtype);

}  // namespace freekv
