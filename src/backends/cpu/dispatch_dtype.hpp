// From a dtype known at run time to a template argument.
#pragma once

#include "core/check.hpp"
#include "core/dtype.hpp"
#include "core/quantized_block.hpp"

namespace freekv::cpu {

/// Types that Block in load_inl.hpp reads; others become f32 first: dequantize.hpp.
constexpr bool is_read_in_vectors(DType dtype) {
  return !is_quantized(dtype) || dtype == DType::kQ8_0;
}

/// Calls body(DTypeConstant<dtype>{}) for one of these.
template <typename Body>
decltype(auto) dispatch_block_dtype(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF32:
      return body(DTypeConstant<DType::kF32>{});
    case DType::kF16:
      return body(DTypeConstant<DType::kF16>{});
    case DType::kBF16:
      return body(DTypeConstant<DType::kBF16>{});
    case DType::kQ8_0:
      return body(DTypeConstant<DType::kQ8_0>{});
    default:
      fail(ErrorCode::kInternal, "{} is not read in vectors", dtype_name(dtype));
  }
}

/// The same for the dtypes KV may have.
template <typename Body>
decltype(auto) dispatch_kv_dtype(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF32:
      return body(DTypeConstant<DType::kF32>{});
    case DType::kF16:
      return body(DTypeConstant<DType::kF16>{});
    case DType::kBF16:
      return body(DTypeConstant<DType::kBF16>{});
    default:
      fail(ErrorCode::kUnsupported, "KV has dtype {}, must be F32, F16 or BF16", dtype_name(dtype));
  }
}

}  // namespace freekv::cpu
