// What an operation needs to run: where, and with which workers. Passed first to every operation.
#pragma once

#include "core/thread_pool.hpp"

namespace freekv {

/// One per engine; used by one thread at a time. Grows a stream on devices that have them.
class ExecutionContext {
 public:
  explicit ExecutionContext(int threads) : pool_(threads) {}

  ThreadPool& pool() { return pool_; }
  int threads() const { return pool_.size(); }

 private:
  ThreadPool pool_;
};

}  // namespace freekv
