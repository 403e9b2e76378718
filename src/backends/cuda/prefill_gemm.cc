#include "backends/cuda/prefill_gemm.hpp"

#include <cublasLt.h>

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  fail(status == CUBLAS_STATUS_ALLOC_FAILED ? ErrorCode::kOutOfMemory : ErrorCode::kDevice,
       "{}: {}", what, cublasLtGetStatusName(status));
}

// Owns one of cuBLASLt's descriptors.
template <typename T, cublasStatus_t (*kDestroy)(T)>
class Handle {
 public:
  Handle() = default;
  ~Handle() {
    if (value_) (void)kDestroy(value_);
  }
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  T* put() { return &value_; }
  operator T() const { return value_; }  // NOLINT(google-explicit-constructor)

 private:
  T value_ = nullptr;
};
using Library = Handle<cublasLtHandle_t, cublasLtDestroy>;
using Operation = Handle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Handle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Handle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

// cuBLASLt counts in columns: our row-major [rows, width] is its [width, rows].
Layout layout(cudaDataType_t type, int64_t width, int64_t rows) {
  Layout result;
  check_blas(cublasLtMatrixLayoutCreate(result.put(), type, static_cast<uint64_t>(width),
                                        static_cast<uint64_t>(rows), width),
             "cublasLtMatrixLayoutCreate");
  return result;
}

uint32_t alignment(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return static_cast<uint32_t>(std::min<uintptr_t>(address & (~address + 1), 256));
}

// What the choice of an algorithm depends on.
struct Shape {
  int64_t rows, n, k;
  GemmOutput type;
  bool accumulate;
  uint32_t x_alignment, weight_alignment, out_alignment;

  auto key() const {
    return std::tuple(rows, n, k, type, accumulate, x_alignment, weight_alignment, out_alignment);
  }
  bool operator<(const Shape& other) const { return key() < other.key(); }
};

struct Plan {
  Operation operation;
  Layout weight, x, out;
  cublasLtMatmulAlgo_t algorithm{};
};

// Prompts end in chunks of any size; a plan is small, but not worth keeping for each.
constexpr size_t kMostPlans = 256;

}  // namespace

struct Gemm::Impl {
  Plan make_plan(const Shape& shape) const;
  const Plan& plan(const Shape& shape);

  Library library;
  DeviceBuffer workspace{kWorkspaceBytes};
  std::map<Shape, Plan> plans;
};

Plan Gemm::Impl::make_plan(const Shape& shape) const {
  Plan plan;
  check_blas(cublasLtMatmulDescCreate(plan.operation.put(), CUBLAS_COMPUTE_32F, CUDA_R_32F),
             "cublasLtMatmulDescCreate");
  const cublasOperation_t transposed = CUBLAS_OP_T;
  check_blas(cublasLtMatmulDescSetAttribute(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                            &transposed, sizeof(transposed)),
             "cublasLtMatmulDescSetAttribute");
  plan.weight = layout(CUDA_R_16BF, shape.k, shape.n);
  plan.x = layout(CUDA_R_16BF, shape.k, shape.rows);
  plan.out = layout(shape.type == GemmOutput::kF32 ? CUDA_R_32F : CUDA_R_16BF, shape.n, shape.rows);

  Preference preference;
  check_blas(cublasLtMatmulPreferenceCreate(preference.put()), "cublasLtMatmulPreferenceCreate");
  const auto set = [&](cublasLtMatmulPreferenceAttributes_t what, const auto& value) {
    check_blas(cublasLtMatmulPreferenceSetAttribute(preference, what, &value, sizeof(value)),
               "cublasLtMatmulPreferenceSetAttribute");
  };
  set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, shape.weight_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, shape.x_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, shape.out_alignment);
  set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, shape.out_alignment);
  cublasLtMatmulHeuristicResult_t found{};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(library, plan.operation, plan.weight, plan.x, plan.out,
                                     plan.out, preference, 1, &found, &count);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || (status == CUBLAS_STATUS_SUCCESS && count == 0)) {
    fail(ErrorCode::kUnsupported, "cuBLASLt has no product of [{}, {}] and [{}, {}] in bf16",
         shape.rows, shape.k, shape.n, shape.k);
  }
  check_blas(status, "cublasLtMatmulAlgoGetHeuristic");
  plan.algorithm = found.algo;
  return plan;
}

const Plan& Gemm::Impl::plan(const Shape& shape) {
  const auto found = plans.find(shape);
  if (found != plans.end()) return found->second;
  if (plans.size() >= kMostPlans) plans.clear();
  return plans.emplace(shape, make_plan(shape)).first->second;
}

Gemm::Gemm() : impl_(std::make_unique<Impl>()) {
  check_blas(cublasLtCreate(impl_->library.put()), "cublasLtCreate");
}
Gemm::~Gemm() = default;

void Gemm::run(const GemmParams& params, cudaStream_t stream) {
  check_argument(
      params.rows >= 0 && params.n >= 1 && params.k >= 1 && params.n % 8 == 0 && params.k % 8 == 0,
      "a product of [{}, {}] and [{}, {}]: widths must be multiples of 8", params.rows, params.k,
      params.n, params.k);
  check_argument(!params.accumulate || params.type == GemmOutput::kF32,
                 "a product of {} rows is added to bf16, must be f32", params.rows);
  if (params.rows == 0) return;
  const Plan& plan =
      impl_->plan({params.rows, params.n, params.k, params.type, params.accumulate,
                   alignment(params.x), alignment(params.weight), alignment(params.out)});
  const float alpha = 1, beta = params.accumulate ? 1 : 0;
  check_blas(cublasLtMatmul(impl_->library, plan.operation, &alpha, params.weight, plan.weight,
                            params.x, plan.x, &beta, params.out, plan.out, params.out, plan.out,
                            &plan.algorithm, impl_->workspace.data(), kWorkspaceBytes, stream),
             "cublasLtMatmul");
}

}  // namespace freekv::cuda
