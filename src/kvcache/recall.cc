#include "kvcache/recall.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/check.hpp"

namespace freekv {
namespace {

// Head pages per staging buffer: enough to keep both threads busy for longer than handing a buffer
// over takes, small enough that what was copied is still in cache when it is converted.
constexpr int kStagePages = 8;

}  // namespace

RecallJob::RecallJob(Backend& backend, SlowTier& slow, const KvPool& fast,
                     RecallMechanism mechanism, size_t max_items)
    : backend_(backend), slow_(slow), fast_(fast), mechanism_(mechanism) {
  items_.reserve(max_items);
}

void RecallJob::add(const RecallItem& item) {
  check_internal(!under_way() && items_.size() < items_.capacity(),
                 "a recall of {} items, {} at most, takes no more", items_.size(),
                 items_.capacity());
  items_.push_back(item);
}

RecallEngine::RecallEngine(RecallHook* hook) : hook_(hook) {}

RecallEngine::~RecallEngine() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_all();
  if (jobs_thread_.joinable()) jobs_thread_.join();
  if (convert_thread_.joinable()) {
    Stage& stage = stages_[next_stage_];
    stage.state.store(Stage::State::kStop, std::memory_order_release);
    stage.state.notify_all();
    convert_thread_.join();
  }
}

void RecallEngine::prepare(const KvShape& shape, RecallMechanism mechanism) {
  std::unique_lock lock(mutex_);
  if (!jobs_thread_.joinable()) jobs_thread_ = std::thread([this] { run_jobs(); });
  if (mechanism != RecallMechanism::kStreamed) return;
  done_.wait(lock, [this] { return !running_ && first_ == nullptr; });
  for (Stage& stage : stages_) {
    const size_t bytes = shape.slot_bytes() * kStagePages;
    if (stage.memory.bytes() < bytes) stage.memory = Buffer(bytes);
  }
  if (!convert_thread_.joinable()) {
    convert_thread_ = std::thread([this] { convert_stages(); });
  }
}

void RecallEngine::submit(RecallJob& job) {
  if (job.items_.empty()) return;
  check_internal(!job.under_way(), "a recall of {} items is under way", job.items_.size());
  {
    std::lock_guard lock(mutex_);
    job.state_.store(RecallJob::State::kQueued, std::memory_order_relaxed);
    job.next_ = nullptr;
    (last_ ? last_->next_ : first_) = &job;
    last_ = &job;
    ++queued_;
  }
  work_.notify_one();
}

uint64_t RecallEngine::wait(ExecutionContext& ctx, RecallJob& job) { return wait(&ctx, job); }
uint64_t RecallEngine::wait(RecallJob& job) { return wait(nullptr, job); }

// Unlinks a job that has not begun. The lock is held.
bool RecallEngine::take_back(RecallJob& job) {
  if (job.state_.load(std::memory_order_relaxed) != RecallJob::State::kQueued) return false;
  RecallJob* before = nullptr;
  for (RecallJob* each = first_; each != &job; each = each->next_) before = each;
  (before ? before->next_ : first_) = job.next_;
  if (last_ == &job) last_ = before;
  --queued_;
  job.state_.store(RecallJob::State::kRunning, std::memory_order_relaxed);
  return true;
}

uint64_t RecallEngine::wait(ExecutionContext* ctx, RecallJob& job) {
  using State = RecallJob::State;
  const State state = job.state_.load(std::memory_order_acquire);
  if (state == State::kIdle) return 0;
  const auto begin = std::chrono::steady_clock::now();
  if (state != State::kDone) {
    std::unique_lock lock(mutex_);
    if (take_back(job)) {
      lock.unlock();
      try {
        if (hook_) hook_->before(job.items_);
        if (ctx) {
          const auto n = static_cast<int64_t>(job.items_.size());
          ctx->pool().parallel_for(n, 1, [&](int64_t first, int64_t last, int) {
            gather(job,
                   std::span(job.items_)
                       .subspan(static_cast<size_t>(first), static_cast<size_t>(last - first)));
          });
        } else {
          gather(job, job.items_);
        }
      } catch (...) {
        job.error_ = std::current_exception();
      }
    } else {
      done_.wait(lock, [&] { return job.state_.load(std::memory_order_relaxed) == State::kDone; });
    }
  }
  job.state_.store(State::kIdle, std::memory_order_relaxed);
  if (job.error_) std::rethrow_exception(std::exchange(job.error_, nullptr));
  job.items_.clear();
  const auto waited = std::chrono::steady_clock::now() - begin;
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(waited).count());
}

void RecallEngine::run_jobs() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return stop_ || first_ != nullptr; });
    if (first_ == nullptr) return;  // queued jobs are finished before the end
    RecallJob* job = first_;
    for (size_t skip = hook_ ? std::min(hook_->pick(queued_), queued_ - 1) : 0; skip > 0; --skip) {
      job = job->next_;
    }
    take_back(*job);
    running_ = true;
    lock.unlock();
    run(*job);
    lock.lock();
    running_ = false;
    job->state_.store(RecallJob::State::kDone, std::memory_order_release);
    done_.notify_all();
  }
}

void RecallEngine::run(RecallJob& job) {
  try {
    if (hook_) hook_->before(job.items_);
    if (job.mechanism_ == RecallMechanism::kStreamed) {
      stream(job);
    } else {
      gather(job, job.items_);
    }
  } catch (...) {
    job.error_ = std::current_exception();
  }
}

void RecallEngine::gather(const RecallJob& job, std::span<const RecallItem> items) {
  for (const RecallItem& item : items) {
    job.slow_.load(item.page, item.head, job.fast_, item.slot);
  }
}

// Fills one stage while the other is converted. The last stage is converted here, since nothing is
// left to overlap it with.
void RecallEngine::stream(const RecallJob& job) {
  using State = Stage::State;
  std::exception_ptr error;
  std::span<const RecallItem> left = job.items_;
  while (!left.empty() && !error) {
    Stage& stage = stages_[next_stage_];
    stage.state.wait(State::kFull, std::memory_order_acquire);
    stage.items = left.first(std::min<size_t>(left.size(), kStagePages));
    left = left.subspan(stage.items.size());
    stage.job = &job;
    stage.pool = {stage.memory.data(), job.fast_.shape, KvLayout::kHND, kStagePages};
    try {
      int32_t at = 0;
      for (const RecallItem& item : stage.items) {
        job.slow_.read(item.page, item.head, stage.pool.keys(at++, item.head));
      }
      if (left.empty()) convert(stage);
    } catch (...) {
      error = std::current_exception();
    }
    if (error || left.empty()) break;
    stage.state.store(State::kFull, std::memory_order_release);
    stage.state.notify_all();
    next_stage_ = 1 - next_stage_;
  }
  for (Stage& stage : stages_) {
    stage.state.wait(State::kFull, std::memory_order_acquire);
    if (stage.error) error = std::exchange(stage.error, nullptr);
  }
  if (error) std::rethrow_exception(error);
}

void RecallEngine::convert(const Stage& stage) {
  int32_t at = 0;
  for (const RecallItem& item : stage.items) {
    stage.job->backend_.copy_head_page(stage.pool, at++, stage.job->fast_, item.slot, item.head);
  }
}

void RecallEngine::convert_stages() {
  using State = Stage::State;
  for (int at = 0;; at = 1 - at) {
    Stage& stage = stages_[at];
    stage.state.wait(State::kEmpty, std::memory_order_acquire);
    if (stage.state.load(std::memory_order_acquire) == State::kStop) return;
    try {
      convert(stage);
    } catch (...) {
      stage.error = std::current_exception();
    }
    stage.state.store(State::kEmpty, std::memory_order_release);
    stage.state.notify_all();
  }
}

}  // namespace freekv
