// Recall in the background: head pages move from a slow tier into slots of the fast tier while the
// model computes (FreeKV, section 4.3).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "backends/backend.hpp"
#include "device/buffer.hpp"
#include "device/execution_context.hpp"
#include "kvcache/cache_config.hpp"
#include "kvcache/slow_tier.hpp"

namespace freekv {

/// One head's page to bring into one slot of the fast tier.
struct RecallItem {
  int32_t head = 0;
  int32_t page = 0;
  int32_t slot = 0;
};

/// The misses of one (sequence, layer) in one step, and their ticket. Filled, submitted and waited
/// for by one thread; reused step after step, with all memory taken by the constructor.
class RecallJob {
 public:
  RecallJob(Backend& backend, SlowTier& slow, const KvPool& fast, RecallMechanism mechanism,
            size_t max_items);

  /// Only while nothing is under way.
  void add(const RecallItem& item);
  std::span<const RecallItem> items() const { return items_; }
  /// Submitted and not yet waited for.
  bool under_way() const { return state_.load(std::memory_order_relaxed) != State::kIdle; }
  /// Drops the items of a job that is not under way.
  void clear() { items_.clear(); }

 private:
  friend class RecallEngine;
  enum class State : uint32_t { kIdle, kQueued, kRunning, kDone };

  Backend& backend_;
  SlowTier& slow_;
  KvPool fast_;
  RecallMechanism mechanism_;
  std::vector<RecallItem> items_;
  std::atomic<State> state_{State::kIdle};
  std::exception_ptr error_;
  RecallJob* next_ = nullptr;  // in the engine's queue
};

/// For tests: what happens around a job on the recall thread. Outputs must not depend on it.
class RecallHook {
 public:
  virtual ~RecallHook() = default;
  /// Which of the `queued` jobs, in order of submission, runs next.
  virtual size_t pick([[maybe_unused]] size_t queued) { return 0; }
  /// Before the job's first item; may wait, throw, or change the order of the items.
  virtual void before(std::span<RecallItem>) {}
};

/// The recall threads of an engine, shared by all its sequences: one that runs jobs, and a second
/// that converts when a job is streamed. They sleep while there is nothing to do. Jobs must outlive
/// their wait().
class RecallEngine {
 public:
  explicit RecallEngine(RecallHook* hook = nullptr);
  ~RecallEngine();
  RecallEngine(const RecallEngine&) = delete;
  RecallEngine& operator=(const RecallEngine&) = delete;

  /// Takes what jobs of this kind need (threads, staging buffers), so that submit() allocates
  /// nothing. Call before the first job of a shape.
  void prepare(const KvShape& shape, RecallMechanism mechanism);

  /// Queues the job; a job without items is none. Nothing its items name may be read or written
  /// until wait() returns.
  void submit(RecallJob& job);

  /// Blocks until the job is done, empties it and returns the nanoseconds that took; 0 for a job
  /// that was not submitted. A job that has not begun runs here, on the workers of `ctx`: nobody
  /// waits for a thread to be scheduled. Rethrows what failed, leaving the items for the caller to
  /// undo and clear().
  uint64_t wait(ExecutionContext& ctx, RecallJob& job);
  /// The same, without workers.
  uint64_t wait(RecallJob& job);

 private:
  // One of the two buffers that streamed recall alternates between.
  struct Stage {
    enum class State : uint32_t { kEmpty, kFull, kStop };
    std::atomic<State> state{State::kEmpty};
    Buffer memory;
    KvPool pool;
    const RecallJob* job = nullptr;
    std::span<const RecallItem> items;
    std::exception_ptr error;
  };

  uint64_t wait(ExecutionContext* ctx, RecallJob& job);
  bool take_back(RecallJob& job);
  void run_jobs();
  void run(RecallJob& job);
  void gather(const RecallJob& job, std::span<const RecallItem> items);
  void stream(const RecallJob& job);
  static void convert(const Stage& stage);
  void convert_stages();

  RecallHook* hook_;
  std::mutex mutex_;
  std::condition_variable work_;  // a job was queued, or the end
  std::condition_variable done_;  // a job was finished
  RecallJob* first_ = nullptr;
  RecallJob* last_ = nullptr;
  size_t queued_ = 0;
  bool running_ = false;
  bool stop_ = false;
  Stage stages_[2];
  int next_stage_ = 0;  // of the recall thread
  std::thread jobs_thread_;
  std::thread convert_thread_;
};

}  // namespace freekv
