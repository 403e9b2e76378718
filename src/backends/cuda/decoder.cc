#include "backends/cuda/decoder.hpp"

#include <algorithm>

#include "backends/cuda/decode_attention.hpp"
#include "backends/cuda/decoder_impl.hpp"
#include "core/check.hpp"

namespace freekv::cuda {
namespace {

// Enough splits of a row to fill the device, but none without a page.
int32_t attention_splits(int32_t rows, int32_t attended_pages) {
  const int32_t wanted = (2 * multiprocessors() + rows - 1) / rows;
  return std::clamp<int32_t>(std::min(wanted, attended_pages), 1, 64);
}

void add(RowCounters& sum, const RowCounters& more) {
  sum.selections += more.selections;
  sum.pages_selected += more.pages_selected;
  sum.misses_before += more.misses_before;
  sum.misses_after += more.misses_after;
  sum.tested += more.tested;
  sum.drifted += more.drifted;
  sum.lost_mass += more.lost_mass;
}

}  // namespace

Decoder::Impl::Impl(const DecoderShape& s, DecoderWeights w, const RetrievalRule& r,
                    const PageMap& m, const DecoderLimits& l)
    : shape(s), weights(std::move(w)), rule(r), map(m), limits(l) {
  check_argument(static_cast<int32_t>(weights.layers.size()) == shape.layers,
                 "weights of {} layers, the shape has {}", weights.layers.size(), shape.layers);
  check_argument(
      !rule.coverage || (rule.budgeted && rule.speculative && rule.sketch == SketchKind::kKey2),
      "the rule is of coverage, which needs {}", "a budget, speculation and key2 sketches");
  if (!limits.slow) limits.slow = std::make_shared<PinnedPool>(0);
  check_argument(limits.sequences >= 1, "sequences is {}, must be 1 or more", limits.sequences);
  check_argument(limits.context >= 1, "context is {}, must be 1 or more", limits.context);
  const auto n = static_cast<size_t>(limits.sequences);
  const size_t rows = n * static_cast<size_t>(kv_heads());
  const auto layers = static_cast<size_t>(shape.layers);
  const size_t q_values = n * static_cast<size_t>(heads()) * static_cast<size_t>(shape.kv.head_dim);
  const auto floats = [](size_t count) { return device_array<float>(count); };

  sequence_table = device_array<SequenceLayer>(n * layers);
  tokens = device_array<int64_t>(n);
  batch_input = device_array<int32_t>(2 * n);
  ids = batch_input.as<int32_t>() + n;
  for (Input& input : inputs) input.memory = PinnedBuffer(2 * n * sizeof(int32_t), 1);

  x = floats(n * static_cast<size_t>(shape.hidden));
  qkv = floats(n * static_cast<size_t>(qkv_width()));
  q = floats(layers * q_values);
  modes = device_array<RowMode>(layers * rows);
  attention = floats(q_values);
  activated = floats(n * static_cast<size_t>(shape.ffn));
  logits = floats(n * static_cast<size_t>(shape.vocab));

  const int32_t max_pages = map.pages(limits.context);
  // A budget beyond the context attends as dense attention does, to the bit: as many splits too.
  const int32_t longest =
      rule.budgeted && rule.dense_layers == 0 ? std::min(map.attended(), max_pages) : max_pages;
  splits = attention_splits(kv_heads(), longest);
  attention_scratch = DeviceBuffer(decode_attention_scratch(shape.kv, limits.sequences, splits));
  if (rule.selects) {
    const int32_t common_pages = rule.coverage ? map.sink + map.ring() : 0;
    const size_t bytes = select_scratch(shape.kv, limits.sequences, max_pages, common_pages);
    scores_main = DeviceBuffer(bytes);
    for (Side& side : sides) {
      if (rule.speculative && !rule.coverage) side.scores = DeviceBuffer(bytes);
    }
    moves = device_array<Move>(layers * rows * static_cast<size_t>(map.selected));
    move_counts = device_array<int32_t>(layers * rows);
  }
  counters = device_array<RowCounters>(layers * rows);
  corrections = device_array<int32_t>(1);
  check_cuda(cudaMemset(corrections.data(), 0, sizeof(int32_t)), "the count of corrections");
  products = (4 * layers + 1) * ((n + kMaxGemvRows - 1) / kMaxGemvRows);
  taken = device_array<unsigned>(products);
  check_cuda(cudaMemset(taken.data(), 0, taken.bytes()), "the counts of a step's products");

  batch = {.n = 0,
           .layer_count = shape.layers,
           .sequence = batch_input.as<int32_t>(),
           .tokens = tokens.as<int64_t>(),
           .layers = sequence_table.as<SequenceLayer>()};
  open_sequences.resize(n);
  batch_layers.reserve(n);
  if (rule.selects && rule.budgeted) {
    recall = make_recall_mechanism(shape, rule, map, limits.sequences);
  }
}

// Memory goes afterwards, and no step may still use it. After a failure of the device the waits
// return at once.
Decoder::Impl::~Impl() {
  if (recall) recall->drain();
  for (const Side& side : sides) (void)cudaStreamSynchronize(side.stream);
  (void)cudaStreamSynchronize(main);
}

Graph& Decoder::Impl::graph(int32_t n) {
  Graph& found = graphs[n];
  if (!found) found = Graph::capture(main, [&] { queue_step(n); });
  return found;
}

void Decoder::Impl::run_step(int32_t n) {
  if (recall) recall->set_batch(batch_layers);
  if (rule.use_graph && (!recall || recall->capturable())) {
    graph(n).launch(main);
  } else {
    queue_step(n);
  }
}

Decoder::Decoder(const DecoderShape& shape, DecoderWeights weights, const RetrievalRule& rule,
                 const PageMap& map, const DecoderLimits& limits)
    : impl_(std::make_unique<Impl>(shape, std::move(weights), rule, map, limits)) {}
Decoder::~Decoder() = default;

Decoder::Footprint Decoder::footprint(int64_t context) const {
  return SequenceMemory::footprint(impl_->shape, impl_->rule, impl_->map, context);
}

int32_t Decoder::open(int64_t context) {
  check_argument(context >= 1 && context <= impl_->limits.context, "context is {}, must be 1 to {}",
                 context, impl_->limits.context);
  auto& all = impl_->open_sequences;
  const auto free = std::find(all.begin(), all.end(), nullptr);
  check_argument(free != all.end(), "{} sequences are open already, the limit is {}", all.size(),
                 all.size());
  const auto index = static_cast<int32_t>(free - all.begin());
  *free = std::make_unique<SequenceMemory>(impl_->shape, impl_->rule, impl_->map, context,
                                           impl_->limits.host_threads, *impl_->limits.slow);
  const auto layers = static_cast<size_t>(impl_->shape.layers);
  check_cuda(cudaMemcpyAsync(
                 impl_->sequence_table.as<SequenceLayer>() + static_cast<size_t>(index) * layers,
                 (*free)->layers().data(), layers * sizeof(SequenceLayer), cudaMemcpyHostToDevice,
                 impl_->main),
             "the table of sequences");
  impl_->main.synchronize();
  return index;
}

void Decoder::close(int32_t sequence) {
  impl_->main.synchronize();
  if (impl_->recall) impl_->recall->drain();
  impl_->open_sequences.at(static_cast<size_t>(sequence)).reset();
}

int64_t Decoder::tokens(int32_t sequence) const {
  return impl_->open_sequences.at(static_cast<size_t>(sequence))->tokens();
}

const SequenceLayer& Decoder::layer(int32_t sequence, int32_t layer) const {
  return impl_->open_sequences.at(static_cast<size_t>(sequence))
      ->layers()[static_cast<size_t>(layer)];
}

void Decoder::Impl::begin(int32_t sequence, int64_t count, bool placed) {
  SequenceMemory& memory = *open_sequences.at(static_cast<size_t>(sequence));
  if (recall) recall->drain();
  memory.begin(count, placed, batch.layers + int64_t{sequence} * shape.layers, main);
  const auto at = static_cast<size_t>(sequence);
  check_cuda(cudaMemcpyAsync(tokens.as<int64_t>() + at, &count, sizeof(count),
                             cudaMemcpyHostToDevice, main),
             "the length of a sequence");
  const auto heads = static_cast<size_t>(kv_heads());
  const size_t layer_rows = static_cast<size_t>(limits.sequences) * heads;
  check_cuda(
      cudaMemset2DAsync(counters.as<RowCounters>() + at * heads, layer_rows * sizeof(RowCounters),
                        0, heads * sizeof(RowCounters), static_cast<size_t>(shape.layers), main),
      "the counters of a sequence");
  main.synchronize();
}

void Decoder::begin(int32_t sequence, int64_t tokens) { impl_->begin(sequence, tokens, false); }
void Decoder::begin_placed(int32_t sequence, int64_t tokens) {
  impl_->begin(sequence, tokens, true);
}
const DecoderShape& Decoder::shape() const { return impl_->shape; }
const PageMap& Decoder::map() const { return impl_->map; }
void Decoder::drain() {
  impl_->main.synchronize();
  if (impl_->recall) impl_->recall->drain();
}

void Decoder::step(std::span<const int32_t> sequences, std::span<const int32_t> ids) {
  check_argument(sequences.size() == ids.size(), "{} sequences but {} tokens", sequences.size(),
                 ids.size());
  check_argument(sequences.size() <= impl_->open_sequences.size(),
                 "a batch of {} sequences, the limit is {}", sequences.size(),
                 impl_->open_sequences.size());
  if (sequences.empty()) return;
  impl_->batch_layers.clear();
  for (size_t i = 0; i < sequences.size(); ++i) {
    SequenceMemory& memory = *impl_->open_sequences.at(static_cast<size_t>(sequences[i]));
    check_argument(memory.tokens() < memory.context(),
                   "sequence {} holds {} tokens, the context limit is {}", i, memory.tokens(),
                   memory.context());
    check_argument(ids[i] >= 0 && ids[i] < impl_->shape.vocab,
                   "token {} is outside the {} of the model", ids[i], impl_->shape.vocab);
    memory.grow();
    impl_->batch_layers.push_back(memory.layers().data());
  }
  Impl::Input& input = impl_->inputs[impl_->turn ^= 1];
  if (input.used) check_cuda(cudaEventSynchronize(input.copied), "cudaEventSynchronize");
  // One copy, since the step waits for each.
  auto* staged = reinterpret_cast<int32_t*>(input.memory.data());
  const size_t room = impl_->open_sequences.size();
  std::copy(sequences.begin(), sequences.end(), staged);
  std::copy(ids.begin(), ids.end(), staged + room);
  check_cuda(
      cudaMemcpyAsync(impl_->batch_input.data(), staged, (room + ids.size()) * sizeof(int32_t),
                      cudaMemcpyHostToDevice, impl_->main),
      "the batch of a step");
  input.copied.record(impl_->main);
  input.used = true;
  impl_->run_step(static_cast<int32_t>(sequences.size()));
}

const float* Decoder::logits() const { return impl_->logits.as<float>(); }
cudaStream_t Decoder::stream() const { return impl_->main; }

std::vector<RowCounters> Decoder::layer_counters(int32_t sequence) const {
  impl_->main.synchronize();
  const auto heads = static_cast<size_t>(impl_->kv_heads());
  const size_t rows = static_cast<size_t>(impl_->limits.sequences) * heads;
  std::vector<RowCounters> all(static_cast<size_t>(impl_->shape.layers) * rows);
  check_cuda(cudaMemcpy(all.data(), impl_->counters.data(), all.size() * sizeof(RowCounters),
                        cudaMemcpyDeviceToHost),
             "the counters");
  std::vector<RowCounters> layers(static_cast<size_t>(impl_->shape.layers));
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const size_t first = layer * rows + static_cast<size_t>(sequence) * heads;
    for (size_t i = first; i < first + heads; ++i) add(layers[layer], all[i]);
  }
  return layers;
}

RowCounters Decoder::counters(int32_t sequence) const {
  RowCounters sum;
  for (const RowCounters& layer : layer_counters(sequence)) add(sum, layer);
  return sum;
}

}  // namespace freekv::cuda
