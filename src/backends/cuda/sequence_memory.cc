#include "backends/cuda/sequence_memory.hpp"

#include <algorithm>

#include "backends/cuda/parts.hpp"
#include "backends/cuda/recall.hpp"
#include "core/check.hpp"

namespace freekv::cuda {
namespace {

struct Places {
  Parts fast, sketch, tables, slow;
};

constexpr size_t kValueBytes = 2;  // bf16 and fp16

std::vector<SequenceLayer> place_layers(const DecoderShape& shape, const RetrievalRule& rule,
                                        const PageMap& map, int64_t context, Places& places) {
  const auto heads = static_cast<size_t>(shape.kv.kv_heads);
  const auto slot_bytes = static_cast<size_t>(shape.kv.slot()) * kValueBytes;
  const int32_t max_pages = map.pages(context);
  const auto pages = static_cast<size_t>(max_pages);
  std::vector<SequenceLayer> layers(static_cast<size_t>(shape.layers));
  for (int32_t l = 0; l < shape.layers; ++l) {
    SequenceLayer& layer = layers[static_cast<size_t>(l)];
    const bool over = l >= rule.dense_layers && context > map.budget;
    layer.retrieves = over && (rule.selects || rule.budgeted);
    layer.budgeted = over && rule.budgeted;
    layer.token_major = layer.budgeted && rule.host_layout == HostLayout::kTokenMajor;
    layer.max_pages = max_pages;
    const auto slots = layer.budgeted ? static_cast<size_t>(map.budget_slots()) : pages;
    layer.fast = places.fast.take(slots * slot_bytes);
    if (layer.budgeted) layer.slow = places.slow.take(pages * slot_bytes);
    if (!layer.retrieves) continue;
    const auto resident = static_cast<size_t>(map.resident), k = static_cast<size_t>(map.selected);
    const auto q_values =
        static_cast<size_t>(shape.kv.query_heads()) * static_cast<size_t>(shape.kv.head_dim);
    if (rule.selects) {
      layer.sketch_kind = rule.sketch;
      layer.sketch = places.sketch.take(heads * pages *
                                        static_cast<size_t>(shape.kv.sketch_bytes(rule.sketch)));
    }
    if (layer.budgeted) {
      layer.slot_of_page = places.tables.take<int32_t>(heads * pages * sizeof(int32_t));
      layer.page_in_slot = places.tables.take<int32_t>(heads * resident * sizeof(int32_t));
      layer.last_use = places.tables.take<uint32_t>(heads * resident * sizeof(uint32_t));
      layer.clock = places.tables.take<uint32_t>(heads * sizeof(uint32_t));
    }
    const auto listed = static_cast<size_t>(map.attended_selected());
    layer.selected = places.tables.take<int32_t>(heads * listed * sizeof(int32_t));
    layer.selected_count = places.tables.take<int32_t>(heads * sizeof(int32_t));
    if (rule.coverage) {
      layer.chosen = places.tables.take<int32_t>(heads * k * sizeof(int32_t));
      layer.chosen_count = places.tables.take<int32_t>(heads * sizeof(int32_t));
    }
    layer.previous_q = places.tables.take<float>(q_values * sizeof(float));
    layer.started = places.tables.take<int32_t>(heads * sizeof(int32_t));
  }
  return layers;
}

}  // namespace

std::vector<Move> common_pages(const PageMap& map, int64_t tokens) {
  const bool over = map.over_budget(tokens);
  const int32_t pages = map.pages(tokens);
  std::vector<Move> moves;
  for (int32_t page = 0; page < (over ? map.sink : pages); ++page) {
    moves.push_back({page, map.common_slot(page) - map.sink});
  }
  for (int32_t page = over ? map.window_begin(tokens) : pages; page < pages; ++page) {
    moves.push_back({page, map.common_slot(page) - map.sink});
  }
  return moves;
}

Decoder::Footprint SequenceMemory::footprint(const DecoderShape& shape, const RetrievalRule& rule,
                                             const PageMap& map, int64_t context) {
  Places places{Parts(nullptr), Parts(nullptr), Parts(nullptr), Parts(nullptr)};
  place_layers(shape, rule, map, context, places);
  return {places.fast.used(), places.slow.used(), places.sketch.used(), places.tables.used()};
}

SequenceMemory::SequenceMemory(const DecoderShape& shape, const RetrievalRule& rule,
                               const PageMap& map, int64_t context, int threads, PinnedPool& slow)
    : shape_(shape), map_(map), context_(context), pool_(slow) {
  const Decoder::Footprint size = footprint(shape, rule, map, context);
  // Before the device's: what is refused must cost nothing.
  pool_.check(size.slow);
  device_ = DeviceBuffer(size.fast + size.sketch + size.tables);
  host_ = pool_.take(size.slow, threads);
  Places places{Parts(device_.data()), Parts(device_.data() + size.fast),
                Parts(device_.data() + size.fast + size.sketch), Parts(host_.device())};
  layers_ = place_layers(shape, rule, map, context, places);
}

void SequenceMemory::begin(int64_t tokens, bool placed, const SequenceLayer* table,
                           cudaStream_t stream) {
  check_argument(tokens >= 0 && tokens <= context_, "{} tokens are given, the context limit is {}",
                 tokens, context_);
  reset_tables(tokens, stream);
  const auto complete = static_cast<int32_t>(tokens / map_.page);
  for (const SequenceLayer& layer : layers_) {
    if (!placed && layer.sketch && complete > 0) {
      sketch_pages({.kv = shape_.kv, .layer = layer, .first = 0, .count = complete}, stream);
    }
  }
  if (!placed) load_common_pages(tokens, table, stream);
  check_cuda(cudaStreamSynchronize(stream), "the beginning of a sequence");
  tokens_ = tokens;
}

// As kvcache/layer_cache.cc: while everything fits, the selected slots hold the first pages after
// the sink; past the budget they are empty until the first selection.
void SequenceMemory::reset_tables(int64_t tokens, cudaStream_t stream) {
  const auto heads = static_cast<size_t>(shape_.kv.kv_heads);
  const bool full = !map_.over_budget(tokens);
  const auto put = [&](int32_t* to, const std::vector<int32_t>& values) {
    check_cuda(cudaMemcpyAsync(to, values.data(), values.size() * sizeof(int32_t),
                               cudaMemcpyHostToDevice, stream),
               "the tables of a sequence");
  };
  const auto zero = [&](void* to, size_t bytes) {
    check_cuda(cudaMemsetAsync(to, 0, bytes, stream), "the tables of a sequence");
  };
  for (const SequenceLayer& layer : layers_) {
    if (!layer.retrieves) continue;
    zero(layer.selected_count, heads * sizeof(int32_t));
    zero(layer.started, heads * sizeof(int32_t));
    if (layer.chosen_count) zero(layer.chosen_count, heads * sizeof(int32_t));
    if (!layer.budgeted) continue;
    const auto pages = static_cast<size_t>(layer.max_pages);
    const auto resident = static_cast<size_t>(map_.resident);
    std::vector<int32_t> slot_of_page(heads * pages, -1), page_in_slot(heads * resident, -1);
    for (size_t head = 0; full && head < heads; ++head) {
      for (int32_t i = 0; i < map_.selected && map_.sink + i < layer.max_pages; ++i) {
        slot_of_page[head * pages + static_cast<size_t>(map_.sink + i)] = i;
        page_in_slot[head * resident + static_cast<size_t>(i)] = map_.sink + i;
      }
    }
    put(layer.slot_of_page, slot_of_page);
    put(layer.page_in_slot, page_in_slot);
    zero(layer.last_use, heads * resident * sizeof(uint32_t));
    zero(layer.clock, heads * sizeof(uint32_t));
    // The copies read vectors that end here.
    check_cuda(cudaStreamSynchronize(stream), "the tables of a sequence");
  }
}

// Where the slow tier is laid out as the fast one, a page of all heads is one copy.
void SequenceMemory::copy_slots(const SequenceLayer& layer, std::span<const Move> moves,
                                cudaStream_t stream) const {
  const auto bytes = static_cast<size_t>(shape_.kv.slot()) * kValueBytes;
  for (const Move& move : moves) {
    const auto slot = static_cast<size_t>(map_.sink + move.slot);
    check_cuda(cudaMemcpyAsync(static_cast<std::byte*>(layer.fast) + slot * bytes,
                               static_cast<const std::byte*>(layer.slow) +
                                   static_cast<size_t>(move.page) * bytes,
                               bytes, cudaMemcpyDefault, stream),
               "the first pages of a sequence");
  }
}

// Through the same kernel as recall.
void SequenceMemory::load_common_pages(int64_t tokens, const SequenceLayer* table,
                                       cudaStream_t stream) {
  const std::vector<Move> moves = common_pages(map_, tokens);
  for (const SequenceLayer& layer : layers_) {
    if (layer.token_major) copy_slots(layer, moves, stream);
  }
  const auto heads = static_cast<size_t>(shape_.kv.kv_heads);
  const auto round = static_cast<size_t>(std::max(map_.selected, 1));
  const DeviceBuffer device_moves = device_array<Move>(heads * round);
  const DeviceBuffer counts = device_array<int32_t>(heads);
  const DeviceBuffer first = device_array<int32_t>(1);  // of a batch of this sequence alone
  for (size_t done = 0; done < moves.size(); done += round) {
    const size_t count = std::min(round, moves.size() - done);
    std::vector<Move> all(heads * round);
    for (size_t head = 0; head < heads; ++head) {
      std::copy_n(moves.begin() + static_cast<ptrdiff_t>(done), count,
                  all.begin() + static_cast<ptrdiff_t>(head * round));
    }
    const std::vector<int32_t> each(heads, static_cast<int32_t>(count));
    check_cuda(cudaMemcpyAsync(device_moves.data(), all.data(), all.size() * sizeof(Move),
                               cudaMemcpyHostToDevice, stream),
               "the first pages of a sequence");
    check_cuda(cudaMemcpyAsync(counts.data(), each.data(), each.size() * sizeof(int32_t),
                               cudaMemcpyHostToDevice, stream),
               "the first pages of a sequence");
    for (size_t l = 0; l < layers_.size(); ++l) {
      if (!layers_[l].budgeted || layers_[l].token_major) continue;
      PageMap map = map_;
      map.selected = static_cast<int32_t>(round);  // the moves' stride
      gather({.batch = {.n = 1,
                        .layer_count = shape_.layers,
                        .sequence = first.as<int32_t>(),
                        .tokens = nullptr,
                        .layers = table},
              .kv = shape_.kv,
              .map = map,
              .layer = static_cast<int32_t>(l),
              .moves = device_moves.as<Move>(),
              .move_count = counts.as<int32_t>(),
              .ctas = 32},
             stream);
    }
    check_cuda(cudaStreamSynchronize(stream), "the first pages of a sequence");
  }
}

}  // namespace freekv::cuda
