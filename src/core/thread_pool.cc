#include "core/thread_pool.hpp"

#include <algorithm>

#include "core/check.hpp"

namespace freekv {
namespace {

// Some 50 us on the machine of docs/verification.md: longer than the gap between two operations of
// a decode step, short enough that an idle engine takes no CPU time.
constexpr int kSpins = 2000;
// Where threads share cores with other programs, whoever is waited for may be what a spinning
// thread keeps from running (docs/design.md, "Waiting threads").
constexpr int kSpinsPerYield = 64;

inline void pause(int spin) {
  if (spin % kSpinsPerYield == kSpinsPerYield - 1) {
    std::this_thread::yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  check_argument(threads >= 1 && threads <= 1024, "threads is {}, must be 1 to 1024", threads);
  workers_.reserve(static_cast<size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::execute(int worker) {
  try {
    (*body_)(worker);
  } catch (...) {
    std::lock_guard lock(error_mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void ThreadPool::run(FunctionRef<void(int)> body) {
  if (workers_.empty()) {
    body(0);
    return;
  }
  body_ = &body;
  pending_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  execute(0);
  for (int spin = 0; pending_.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpins) {
      pause(spin);
    } else if (const int left = pending_.load(std::memory_order_acquire); left != 0) {
      pending_.wait(left, std::memory_order_acquire);
    }
  }
  body_ = nullptr;
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  while (true) {
    for (int spin = 0; generation_.load(std::memory_order_acquire) == seen; ++spin) {
      if (spin < kSpins) {
        pause(spin);
      } else {
        generation_.wait(seen, std::memory_order_acquire);
      }
    }
    ++seen;
    if (stop_.load(std::memory_order_acquire)) return;
    execute(worker);
    if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  }
}

void ThreadPool::parallel_for(int64_t n, int64_t grain,
                              FunctionRef<void(int64_t, int64_t, int)> body) {
  if (n <= 0) return;
  const int64_t units = (n + grain - 1) / grain;
  const int64_t parts = std::min<int64_t>(units, size());
  if (parts == 1) {
    body(0, n, 0);
    return;
  }
  run([&](int worker) {
    if (worker >= parts) return;
    const int64_t begin = units * worker / parts * grain;
    const int64_t end = std::min(n, units * (worker + 1) / parts * grain);
    if (begin < end) body(begin, end, worker);
  });
}

}  // namespace freekv
