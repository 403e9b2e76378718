#include "blas_libraries.hpp"

#include <dlfcn.h>

#include <cstdlib>

namespace freekv::bench {
namespace {

// Loaded for the life of the process.
void* open_library(const char* name) { return dlopen(name, RTLD_NOW | RTLD_LOCAL); }

template <typename Function>
Function* symbol(void* library, const char* name) {
  return library == nullptr ? nullptr : reinterpret_cast<Function*>(dlsym(library, name));
}

using CblasSgemm = void(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                        const float* a, int lda, const float* b, int ldb, float beta, float* c,
                        int ldc);
using OneDnnSgemm = int(char trans_a, char trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                        const float* a, int64_t lda, const float* b, int64_t ldb, float beta,
                        float* c, int64_t ldc);
using SetThreads = void(int);
using SetThreadsLong = void(int64_t);

constexpr int kRowMajor = 101;
constexpr int kNoTrans = 111;
constexpr int kTrans = 112;

auto multiply_with(CblasSgemm* sgemm) {
  return
      [sgemm](const float* x, const float* weight, int64_t rows, int64_t n, int64_t k, float* out) {
        const auto to_int = [](int64_t value) { return static_cast<int>(value); };
        sgemm(kRowMajor, kNoTrans, kTrans, to_int(rows), to_int(n), to_int(k), 1.0f, x, to_int(k),
              weight, to_int(k), 0.0f, out, to_int(n));
      };
}

// OpenBLAS picks its kernels by a table of CPU models; for one newer than the table it falls back
// to SSE, at a sixth of the speed. A yardstick should not be bent, so the kernels are named by what
// the CPU can do, unless the user has named them.
void name_openblas_kernels() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    setenv("OPENBLAS_CORETYPE", "Haswell", 0);
  }
#endif
}

std::vector<BlasLibrary> load() {
  std::vector<BlasLibrary> found;
  name_openblas_kernels();
  // Idle workers of these libraries spin for tens of milliseconds, on the cores that what is
  // compared with them needs next. Half a millisecond is still longer than any pause in a product.
  setenv("OPENBLAS_THREAD_TIMEOUT", "20", 0);
  setenv("GOMP_SPINCOUNT", "10000", 0);
  void* library = open_library("libopenblas.so.0");
  auto* sgemm = symbol<CblasSgemm>(library, "cblas_sgemm");
  auto* threads = symbol<SetThreads>(library, "openblas_set_num_threads");
  if (sgemm && threads) found.push_back({"OpenBLAS", threads, multiply_with(sgemm)});

  library = open_library("libblis.so.4");
  sgemm = symbol<CblasSgemm>(library, "cblas_sgemm");
  auto* threads_long = symbol<SetThreadsLong>(library, "bli_thread_set_num_threads");
  if (sgemm && threads_long) found.push_back({"BLIS", threads_long, multiply_with(sgemm)});

  library = open_library("libdnnl.so.2");
  auto* onednn = symbol<OneDnnSgemm>(library, "dnnl_sgemm");
  threads = symbol<SetThreads>(open_library("libgomp.so.1"), "omp_set_num_threads");
  if (onednn && threads) {
    found.push_back({"oneDNN", threads,
                     [onednn](const float* x, const float* weight, int64_t rows, int64_t n,
                              int64_t k, float* out) {
                       onednn('N', 'T', rows, n, k, 1.0f, x, k, weight, k, 0.0f, out, n);
                     }});
  }
  return found;
}

}  // namespace

const std::vector<BlasLibrary>& blas_libraries() {
  static const std::vector<BlasLibrary> libraries = load();
  return libraries;
}

}  // namespace freekv::bench
