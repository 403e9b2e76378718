#include "io/gguf_tensor_type.hpp"

#include <algorithm>
#include <array>

namespace freekv {
namespace {

// Ordered by id. Sizes are those of the block structs in ggml's specification of each type.
constexpr auto kTypes = std::to_array<GgufTensorType>({
    {0, "F32", 1, 4, DType::kF32},
    {1, "F16", 1, 2, DType::kF16},
    {2, "Q4_0", 32, 18, DType::kQ4_0},
    {3, "Q4_1", 32, 20, DType::kQ4_1},
    {6, "Q5_0", 32, 22, DType::kQ5_0},
    {7, "Q5_1", 32, 24, DType::kQ5_1},
    {8, "Q8_0", 32, 34, DType::kQ8_0},
    {9, "Q8_1", 32, 36, {}},
    {10, "Q2_K", 256, 84, {}},
    {11, "Q3_K", 256, 110, {}},
    {12, "Q4_K", 256, 144, DType::kQ4_K},
    {13, "Q5_K", 256, 176, DType::kQ5_K},
    {14, "Q6_K", 256, 210, DType::kQ6_K},
    {15, "Q8_K", 256, 292, {}},
    {16, "IQ2_XXS", 256, 66, {}},
    {17, "IQ2_XS", 256, 74, {}},
    {18, "IQ3_XXS", 256, 98, {}},
    {19, "IQ1_S", 256, 50, {}},
    {20, "IQ4_NL", 32, 18, {}},
    {21, "IQ3_S", 256, 110, {}},
    {22, "IQ2_S", 256, 82, {}},
    {23, "IQ4_XS", 256, 136, {}},
    {24, "I8", 1, 1, {}},
    {25, "I16", 1, 2, {}},
    {26, "I32", 1, 4, {}},
    {27, "I64", 1, 8, {}},
    {28, "F64", 1, 8, {}},
    {29, "IQ1_M", 256, 56, {}},
    {30, "BF16", 1, 2, DType::kBF16},
    {34, "TQ1_0", 256, 54, {}},
    {35, "TQ2_0", 256, 66, {}},
    {39, "MXFP4", 32, 17, {}},
    {40, "NVFP4", 64, 36, {}},
});

// What is computed with has the sizes that the computing code assumes.
static_assert(std::ranges::all_of(kTypes, [](const GgufTensorType& type) {
  return !type.dtype ||
         (dtype_name(*type.dtype) == type.name &&
          dtype_info(*type.dtype).block_values == static_cast<int>(type.block_values) &&
          dtype_info(*type.dtype).block_bytes == static_cast<int>(type.block_bytes));
}));

}  // namespace

const GgufTensorType* find_gguf_tensor_type(uint32_t id) {
  const auto* it =
      std::lower_bound(kTypes.begin(), kTypes.end(), id,
                       [](const GgufTensorType& type, uint32_t value) { return type.id < value; });
  return it != kTypes.end() && it->id == id ? it : nullptr;
}

uint32_t gguf_type_id(DType dtype) {
  return std::ranges::find(kTypes, std::optional(dtype), &GgufTensorType::dtype)->id;
}

}  // namespace freekv
