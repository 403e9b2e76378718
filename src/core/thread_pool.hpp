// A fixed set of workers for short parallel regions. The caller is worker 0.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/function_ref.hpp"

namespace freekv {

/// Regions are started by one thread at a time and block until every worker is done. Idle workers
/// spin briefly, since a decode step is many regions of microseconds, then sleep. Work is cut into
/// contiguous static ranges, so what a worker does depends on the thread count alone.
class ThreadPool {
 public:
  /// threads >= 1, the caller included; throws Error(kInvalidArgument) otherwise.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(worker) on every worker, 0 <= worker < size(). The first exception thrown by a
  /// body is rethrown here once all have finished. Not reentrant. Allocates nothing.
  void run(FunctionRef<void(int worker)> body);

  /// Calls body(begin, end, worker) with [0, n) cut into at most size() contiguous ranges whose
  /// bounds are multiples of `grain`; empty ranges are skipped.
  void parallel_for(int64_t n, int64_t grain,
                    FunctionRef<void(int64_t begin, int64_t end, int worker)> body);

 private:
  void work(int worker);
  void execute(int worker);

  std::vector<std::thread> workers_;
  const FunctionRef<void(int)>* body_ = nullptr;
  std::atomic<uint32_t> generation_{0};
  std::atomic<int> pending_{0};
  std::atomic<bool> stop_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace freekv
