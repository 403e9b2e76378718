#include "kvcache/sequence_cache.hpp"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "core/check.hpp"

namespace freekv {
namespace {

void check_config(const CacheConfig& config) {
  const KvShape& shape = config.shape;
  check_argument(config.layers >= 1, "layers is {}, must be at least 1", config.layers);
  check_argument(
      shape.heads >= 1 && config.query_heads >= 1 && config.query_heads % shape.heads == 0,
      "query heads are {}, must be a multiple of the {} KV heads", config.query_heads, shape.heads);
  check_argument(shape.page >= 1 && shape.head_dim >= 1,
                 "page is {} and head_dim {}, must be at least 1", shape.page, shape.head_dim);
  check_argument(config.max_context >= 1 && config.max_context <= (int64_t{1} << 30),
                 "max_context is {}, must be 1 to {}", config.max_context, int64_t{1} << 30);
}

void check_limits(const CacheConfig& config, const CacheNeeds& needs, const PageLayout& layout) {
  size_t fast = 0;
  size_t slow = 0;
  for (int layer = 0; layer < config.layers; ++layer) {
    const LayerPlan plan(config, needs, layer);
    fast += config.shape.slot_bytes() * static_cast<size_t>(plan.fast_slots(config, layout));
    if (plan.budgeted) slow += config.shape.slot_bytes() * static_cast<size_t>(config.max_pages());
  }
  if (fast > config.fast_limit_bytes) {
    fail(ErrorCode::kOutOfMemory,
         "the fast tier needs {} bytes for a context of {} tokens, its limit is {}", fast,
         config.max_context, config.fast_limit_bytes);
  }
  if (slow > config.slow_limit_bytes) {
    fail(ErrorCode::kOutOfMemory,
         "the slow tier needs {} bytes for a context of {} tokens, its limit is {}", slow,
         config.max_context, config.slow_limit_bytes);
  }
}

}  // namespace

struct SequenceCache::Impl {
  CacheConfig config;
  CacheNeeds needs;
  PageLayout layout;
  std::shared_ptr<RecallEngine> recall;
  std::vector<std::unique_ptr<LayerCache>> layers;
  std::vector<int32_t> page_slots;    // slot = page
  std::vector<int32_t> common_slots;  // of the pages of a budgeted layer while T <= B
  int64_t tokens = 0;
  int64_t chunk_tokens = 0;  // of the chunk under way, as the layers were given it
  bool decoding = false;     // the last page is in the fast tier, not where prefill writes
  RetrievalStats stats;

  void settle() {
    if (!recall) return;
    for (const auto& layer : layers) layer->abandon_recall(*recall);
  }

  void count_filled_pages(int64_t before) {
    const int32_t filled = layout.complete_pages(tokens) - layout.complete_pages(before);
    for (const auto& layer : layers) {
      if (!layer->plan().slow) continue;
      stats.bytes_offloaded += config.shape.slot_bytes() * static_cast<uint64_t>(filled);
    }
  }

  PrefillPages prefill_pages(LayerCache& layer, int64_t end) const {
    const auto pages = static_cast<size_t>(layout.pages(end));
    return {layer.prefill_pool(), std::span<const int32_t>(page_slots).first(pages)};
  }

  void check_room(int64_t count) const {
    check_argument(tokens + count <= config.max_context,
                   "the context would be {} tokens, its limit is {}", tokens + count,
                   config.max_context);
  }
};

SequenceCache::SequenceCache(const CacheConfig& config, const CacheNeeds& needs, Backend& backend,
                             CacheServices services)
    : impl_(std::make_unique<Impl>()) {
  check_config(config);
  impl_->config = config;
  impl_->needs = needs;
  impl_->layout = PageLayout(config, needs);
  check_limits(config, needs, impl_->layout);
  impl_->recall = std::move(services.recall);
  for (int i = 0; i < config.layers; ++i) {
    impl_->layers.push_back(
        std::make_unique<LayerCache>(config, needs, impl_->layout, i, backend, services.make_slow));
    if (!impl_->layers.back()->plan().slow) continue;
    if (!impl_->recall) impl_->recall = std::make_shared<RecallEngine>();
    impl_->recall->prepare(config.shape, needs.recall);
  }
  impl_->page_slots.resize(static_cast<size_t>(config.max_pages()));
  std::iota(impl_->page_slots.begin(), impl_->page_slots.end(), 0);
  if (config.max_context > config.tokens.budget) {
    const int32_t most = impl_->layout.pages(config.tokens.budget);
    for (int32_t page = 0; page < most; ++page) {
      impl_->common_slots.push_back(impl_->layout.common_slot(page));
    }
  }
  impl_->stats.drifted_by_layer.assign(static_cast<size_t>(config.layers), 0);
}

SequenceCache::~SequenceCache() { impl_->settle(); }

const CacheConfig& SequenceCache::config() const { return impl_->config; }
const CacheNeeds& SequenceCache::needs() const { return impl_->needs; }
int64_t SequenceCache::tokens() const { return impl_->tokens; }
const PageLayout& SequenceCache::layout() const { return impl_->layout; }
RetrievalStats& SequenceCache::stats() { return impl_->stats; }
const RetrievalStats& SequenceCache::stats() const { return impl_->stats; }

LayerCache& SequenceCache::layer(int layer) {
  check_internal(layer >= 0 && layer < impl_->config.layers, "layer is {}, must be below {}", layer,
                 impl_->config.layers);
  return *impl_->layers[static_cast<size_t>(layer)];
}

SequenceCache::PrefillPages SequenceCache::append_chunk(ExecutionContext& ctx, int layer,
                                                        View<const float, 3> k,
                                                        View<const float, 3> v) {
  Impl& impl = *impl_;
  impl.check_room(k.shape(0));
  resume_prefill(ctx);
  LayerCache& cache = this->layer(layer);
  cache.append_chunk(ctx, impl.tokens, impl.page_slots, k, v);
  impl.chunk_tokens = k.shape(0);
  return impl.prefill_pages(cache, impl.tokens + k.shape(0));
}

SequenceCache::PrefillPages SequenceCache::prefill_pages(int layer) {
  check_internal(!impl_->decoding, "layer {} is asked for a prompt's pages while decoding", layer);
  return impl_->prefill_pages(this->layer(layer), impl_->tokens);
}

void SequenceCache::resume_prefill(ExecutionContext& ctx) {
  if (!impl_->decoding) return;
  for (int i = 0; i < impl_->config.layers; ++i) {
    finish_recall(ctx, i);
    impl_->layers[static_cast<size_t>(i)]->resume_prefill(impl_->tokens);
  }
  impl_->decoding = false;
}

void SequenceCache::commit_chunk(int64_t count) {
  check_internal(count == impl_->chunk_tokens,
                 "a chunk of {} tokens is committed, {} were appended", count, impl_->chunk_tokens);
  impl_->tokens += count;
  impl_->chunk_tokens = 0;
  impl_->count_filled_pages(impl_->tokens - count);
}

void SequenceCache::finish_prefill(ExecutionContext& ctx) {
  for (const auto& layer : impl_->layers) layer->finish_prefill(ctx, impl_->tokens);
  impl_->decoding = true;
}

void SequenceCache::end_prefill() {
  for (const auto& layer : impl_->layers) layer->end_prefill();
}

void SequenceCache::append_token(ExecutionContext& ctx, int layer, View<const float, 2> k,
                                 View<const float, 2> v) {
  impl_->check_room(1);
  this->layer(layer).append_token(ctx, impl_->tokens, k, v);
}

void SequenceCache::commit_token(ExecutionContext& ctx) {
  Impl& impl = *impl_;
  impl.decoding = true;
  ++impl.tokens;
  impl.count_filled_pages(impl.tokens - 1);
  if (impl.tokens % impl.config.shape.page != 0) return;
  const int32_t page = impl.layout.complete_pages(impl.tokens) - 1;
  const int heads = impl.config.shape.heads;
  ctx.pool().parallel_for(int64_t{impl.config.layers} * heads, 1,
                          [&](int64_t begin, int64_t end, int) {
                            for (int64_t i = begin; i < end; ++i) {
                              impl.layers[static_cast<size_t>(i / heads)]->page_filled(
                                  static_cast<int>(i % heads), page);
                            }
                          });
}

bool SequenceCache::retrieves(int layer) const {
  return layer >= impl_->needs.dense_layers && impl_->layout.over_budget(impl_->tokens + 1);
}

AttentionRow SequenceCache::dense_row(int layer, int head) const {
  const Impl& impl = *impl_;
  const LayerCache& cache = *impl.layers[static_cast<size_t>(layer)];
  const auto pages = static_cast<size_t>(impl.layout.pages(impl.tokens + 1));
  const std::span<const int32_t> all = cache.plan().budgeted ? impl.common_slots : impl.page_slots;
  check_internal(pages <= all.size(), "{} pages are attended, {} fit the fast tier", pages,
                 all.size());
  return {cache.fast(), head, all.first(pages),
          static_cast<int>(impl.tokens % impl.config.shape.page) + 1};
}

AttentionRow SequenceCache::sparse_row(int layer, int head, std::span<const int32_t> pages,
                                       std::span<int32_t> slots) const {
  const Impl& impl = *impl_;
  const LayerCache& cache = *impl.layers[static_cast<size_t>(layer)];
  const PageRange window = impl.layout.window(impl.tokens + 1);
  const int32_t sink = impl.layout.sink_pages();
  const size_t count = static_cast<size_t>(sink + window.size()) + pages.size();
  check_internal(count <= slots.size(), "{} pages are attended, there is room for {}", count,
                 slots.size());
  size_t at = 0;
  for (int32_t page = 0; page < sink; ++page) {
    slots[at++] = cache.resident_slot(head, page, window);
  }
  for (const int32_t page : pages) slots[at++] = cache.resident_slot(head, page, window);
  for (int32_t page = window.first; page < window.last; ++page) {
    slots[at++] = cache.resident_slot(head, page, window);
  }
  return {cache.fast(), head, slots.first(at),
          static_cast<int>(impl.tokens % impl.config.shape.page) + 1};
}

void SequenceCache::submit_recall(int layer) {
  if (RecallJob* job = this->layer(layer).job()) impl_->recall->submit(*job);
}

void SequenceCache::finish_recall(ExecutionContext& ctx, int layer) {
  if (!impl_->recall) return;
  impl_->stats.wait_ns += this->layer(layer).finish_recall(ctx, *impl_->recall);
}

bool SequenceCache::keeps_all() const {
  const Impl& impl = *impl_;
  return !impl.decoding || std::all_of(impl.layers.begin(), impl.layers.end(), [](const auto& l) {
    return !l->plan().budgeted || l->plan().slow;
  });
}

void SequenceCache::append_from(ExecutionContext& ctx, const SequenceCache& from, int64_t count) {
  Impl& impl = *impl_;
  const Impl& other = *from.impl_;
  check_argument(from.keeps_all(), "the other sequence no longer holds the tokens from {} on",
                 impl.tokens);
  check_argument(impl.tokens + count <= other.tokens, "tokens {} to {} are taken, there are {}",
                 impl.tokens, impl.tokens + count, other.tokens);
  KvShape shape = other.config.shape;
  shape.page = impl.config.shape.page;
  check_argument(shape == impl.config.shape && impl.layers.size() == other.layers.size(),
                 "KV is taken from a cache of another shape");
  impl.check_room(count);
  resume_prefill(ctx);
  for (size_t i = 0; i < impl.layers.size(); ++i) {
    impl.layers[i]->append_from(ctx, *other.layers[i], other.tokens, other.decoding, impl.tokens,
                                count);
  }
  impl.chunk_tokens = count;
  commit_chunk(count);
}

void SequenceCache::truncate(ExecutionContext& ctx, int64_t tokens) {
  check_argument(tokens >= 0 && tokens <= impl_->tokens, "{} tokens are to be kept, there are {}",
                 tokens, impl_->tokens);
  resume_prefill(ctx);
  impl_->tokens = tokens;
  impl_->stats.clear();
}

void SequenceCache::reset() {
  Impl& impl = *impl_;
  impl.settle();
  for (const auto& layer : impl.layers) layer->reset();
  impl.tokens = 0;
  impl.chunk_tokens = 0;
  impl.decoding = false;
  impl.stats.clear();
}

MemoryStats SequenceCache::memory() const {
  const Impl& impl = *impl_;
  MemoryStats memory;
  const auto pages = impl.layout.pages(impl.tokens);
  for (const auto& layer : impl.layers) {
    const LayerPlan& plan = layer->plan();
    const int32_t fast = std::min(pages, layer->fast().slots);
    const size_t slot = impl.config.shape.slot_bytes();
    memory.fast_kv_bytes += slot * static_cast<size_t>(fast);
    // The prompt passes through the slow tier even when it does not stay there.
    if (plan.slow || (plan.budgeted && !impl.decoding)) {
      memory.slow_kv_bytes += slot * static_cast<size_t>(pages);
    }
    memory.sketch_bytes += layer->sketches().used_bytes(impl.layout.complete_pages(impl.tokens));
  }
  return memory;
}

}  // namespace freekv
