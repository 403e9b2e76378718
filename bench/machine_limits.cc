#include "machine_limits.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "blas_libraries.hpp"
#include "timing.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "machine_limits.cc"
#include <hwy/foreach_target.h>
// foreach_target.h before what it re-includes
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace freekv::bench::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Combines all words of `bytes` (a multiple of 4 KiB), so that none can be left unread.
uint64_t read_all(const std::byte* data, size_t bytes) {
  const hn::ScalableTag<uint64_t> d;
  const size_t step = hn::Lanes(d);
  const auto* words = reinterpret_cast<const uint64_t*>(data);
  auto a = hn::Zero(d);
  auto b = hn::Zero(d);
  auto c = hn::Zero(d);
  auto e = hn::Zero(d);
  for (size_t i = 0; i < bytes / 8; i += 4 * step) {
    a = hn::Xor(a, hn::LoadU(d, words + i));
    b = hn::Xor(b, hn::LoadU(d, words + i + step));
    c = hn::Xor(c, hn::LoadU(d, words + i + 2 * step));
    e = hn::Xor(e, hn::LoadU(d, words + i + 3 * step));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Xor(hn::Xor(a, b), hn::Xor(c, e))));
}

}  // namespace freekv::bench::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace freekv::bench {

HWY_EXPORT(read_all);

double read_bandwidth(ExecutionContext& ctx) {
  constexpr size_t kBytes = size_t{1} << 30;
  constexpr int64_t kGrain = 1 << 20;
  Buffer buffer(kBytes);
  std::memset(buffer.data(), 1, kBytes);  // untouched pages would all be the one zero page
  std::atomic<uint64_t> sink{0};
  const double seconds = fastest(7, [&] {
    ctx.pool().parallel_for(kBytes, kGrain, [&](int64_t begin, int64_t end, int) {
      sink ^=
          HWY_DYNAMIC_DISPATCH(read_all)(buffer.data() + begin, static_cast<size_t>(end - begin));
    });
  });
  return static_cast<double>(kBytes) / seconds;
}

GemmYardstick::GemmYardstick(int threads, int64_t rows, int64_t n, int64_t k)
    : threads_(threads),
      rows_(rows),
      n_(n),
      k_(k),
      x_(static_cast<size_t>(rows * k) * sizeof(float)),
      weight_(static_cast<size_t>(n * k) * sizeof(float)),
      out_(static_cast<size_t>(rows * n) * sizeof(float)) {
  std::ranges::fill(x_.as<float>(), 0.5f);
  std::ranges::fill(weight_.as<float>(), 0.25f);
}

void GemmYardstick::pass() {
  const double flops = 2.0 * static_cast<double>(rows_) * static_cast<double>(n_ * k_);
  for (const BlasLibrary& library : blas_libraries()) {
    library.set_threads(threads_);
    const double seconds = fastest(4, [&] {
      library.multiply(x_.as<float>().data(), weight_.as<float>().data(), rows_, n_, k_,
                       out_.as<float>().data());
    });
    if (flops / seconds > best_.flops) best_ = {flops / seconds, library.name};
  }
}

}  // namespace freekv::bench
#endif  // HWY_ONCE
