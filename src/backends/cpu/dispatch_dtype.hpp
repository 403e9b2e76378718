// From a dtype known at run time to a template argument.
#pragma once

#include <type_traits>

#include "core/check.hpp"
#include "core/dtype.hpp"

namespace freekv::cpu {

template <DType kType>
using DTypeConstant = std::integral_constant<DType, kType>;

/// Calls body(DTypeConstant<dtype>{}) for any dtype of weights.
template <typename Body>
decltype(auto) dispatch_weight_dtype(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF32:
      return body(DTypeConstant<DType::kF32>{});
    case DType::kF16:
      return body(DTypeConstant<DType::kF16>{});
    case DType::kBF16:
      return body(DTypeConstant<DType::kBF16>{});
    case DType::kQ8_0:
      return body(DTypeConstant<DType::kQ8_0>{});
  }
  fail(ErrorCode::kInternal, "weights have dtype {}, which is none", static_cast<int>(dtype));
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
    case DType::kQ8_0:
      break;
  }
  fail(ErrorCode::kUnsupported, "KV has dtype {}, must be F32, F16 or BF16", dtype_name(dtype));
}

}  // namespace freekv::cpu
