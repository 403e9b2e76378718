#include "backends/cuda/prefill.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "backends/cuda/collect_pages.hpp"
#include "backends/cuda/elementwise.hpp"
#include "backends/cuda/gemv.hpp"
#include "backends/cuda/padded_rows.hpp"
#include "backends/cuda/parts.hpp"
#include "backends/cuda/prefill_attention.hpp"
#include "backends/cuda/prefill_gemm.hpp"
#include "backends/cuda/prefill_kernels.hpp"
#include "backends/cuda/prefill_pages.hpp"
#include "backends/cuda/prefill_progress.hpp"
#include "backends/cuda/sequence_memory.hpp"
#include "core/check.hpp"
#include "device/cuda/runtime.hpp"

namespace freekv::cuda {
namespace {

constexpr size_t kValueBytes = 2;  // bf16 and fp16

// Arrays of one run. N are the tokens after the prefix, C a chunk's of them, e prefill_head_dim(d).
struct Arrays {
  int32_t* ids = nullptr;     // [N]
  float* x = nullptr;         // [N, D]: the residual stream
  void* key = nullptr;        // [T, M, e], of the layer under way
  void* value = nullptr;      // [T, M, e]
  void* normed = nullptr;     // [C, D] bf16
  float* qkv = nullptr;       // [C, (H + 2M) d]
  void* q = nullptr;          // [C, H, e]
  void* attended = nullptr;   // [C, H, e] bf16
  void* attention = nullptr;  // [C, H d] bf16: the same without padding
  void* gate_up = nullptr;    // [C, 2F] bf16
  void* activated = nullptr;  // [C, F] bf16
  void* staging[2] = {};      // [C / p][M][K|V][p][d]: pages on their way to the slow tier
  Move* common = nullptr;     // common_pages()
  void* queries = nullptr;    // [layers][Q, H, e]: those that are asked for
  float* logits = nullptr;    // [V]
};

// What is queued has finished, however run() is left: it reads and writes memory that goes then.
struct Drain {
  const Stream& compute;
  const Stream& copy;
  ~Drain() {
    (void)cudaStreamSynchronize(compute);
    (void)cudaStreamSynchronize(copy);
  }
};

const char* type_name(KvType type) { return type == KvType::kBF16 ? "BF16" : "F16"; }

void check_prefix(const KvPrefix& prefix, const DecoderShape& shape, int64_t tokens) {
  const DecoderShape& from = prefix.decoder->shape();
  check_argument(
      from.layers == shape.layers && from.kv.kv_heads == shape.kv.kv_heads &&
          from.kv.head_dim == shape.kv.head_dim && from.kv.type == shape.kv.type,
      "a prefix of {} layers of {} heads of {} in {}, the prompt has {} of {} of {} in {}",
      from.layers, from.kv.kv_heads, from.kv.head_dim, type_name(from.kv.type), shape.layers,
      shape.kv.kv_heads, shape.kv.head_dim, type_name(shape.kv.type));
  const bool whole = prefix.tokens == tokens;
  check_argument(whole || (prefix.tokens < tokens && prefix.tokens % shape.kv.page == 0),
                 "a prefix of {} tokens, must be whole pages of {} of the prompt, or all its {}",
                 prefix.tokens, shape.kv.page, tokens);
  const int64_t held = prefix.decoder->tokens(prefix.sequence);
  check_argument(prefix.tokens <= held, "a prefix of {} tokens, its sequence holds {}",
                 prefix.tokens, held);
}

}  // namespace

struct Prefill::Impl {
  Impl(const DecoderShape& s, DecoderWeights w, const PrefillLimits& l);

  int64_t qkv_width() const {
    return int64_t{shape.kv.query_heads() + 2 * shape.kv.kv_heads} * shape.kv.head_dim;
  }
  Arrays take(Parts& parts, int64_t tokens, int64_t kept, int64_t queries) const;
  size_t bytes(int64_t tokens, int64_t kept, int64_t queries) const {
    Parts parts(nullptr);
    take(parts, tokens, kept, queries);
    return parts.used();
  }
  // Of a token's queries, as attention reads them.
  size_t query_bytes() const {
    return static_cast<size_t>(shape.kv.query_heads() * prefill_head_dim(shape.kv.head_dim)) *
           kValueBytes;
  }

  // A prompt under way.
  struct Run {
    const Decoder& decoder;
    int32_t sequence = 0;
    int64_t tokens = 0;  // T
    KvPrefix prefix;
    int64_t queries = 0;  // Q: those of the last so many tokens are asked for
    Arrays at;
    int32_t common_pages = 0;

    float* x(int64_t token, int32_t hidden) const {
      return at.x + (token - prefix.tokens) * hidden;
    }
    // Whether the sequence goes on from a prompt of its own, whose pages stand where they belong.
    bool stays() const { return prefix.decoder == &decoder && prefix.sequence == sequence; }
    // Tokens done of the prompt, counted over all layers, once a layer has its first `part`.
    int64_t done(int32_t layer, int64_t part, int32_t layers) const {
      if (prefix.tokens == tokens) return (layer * tokens + part) / layers;
      return prefix.tokens + (layer * (tokens - prefix.tokens) + part - prefix.tokens) / layers;
    }
  };
  void queue_prefix(const Run& run, int32_t layer);
  void queue_chunk(const Run& run, int32_t layer, int64_t first, int64_t n);
  void queue_queries(const Run& run, int32_t layer, int64_t first, int64_t n);
  void queue_attention(const Run& run, const DecoderLayer& w, int64_t first, int64_t n);
  void queue_ffn(const Run& run, const DecoderLayer& w, int64_t first, int64_t n);
  void queue_pages(const Run& run, const SequenceLayer& layer, int64_t first, int64_t n);
  void queue_offload(const LayerKv& from, const SequenceLayer& layer, int32_t first, int32_t count,
                     const Arrays& at);
  void queue_logits(const Run& run, float* logits);
  void hand_over_queries(const Run& run, const DeviceQueries& to) const;

  DecoderShape shape;
  DecoderWeights weights;
  PrefillLimits limits;
  Gemm gemm;
  Stream compute, copy;
  // Of two staging buffers, in turn.
  Event packed[2], copied[2];
  int turn = 0;
};

Prefill::Impl::Impl(const DecoderShape& s, DecoderWeights w, const PrefillLimits& l)
    : shape(s), weights(std::move(w)), limits(l) {
  check_argument(static_cast<int32_t>(weights.layers.size()) == shape.layers,
                 "weights of {} layers, the shape has {}", weights.layers.size(), shape.layers);
  check_argument(shape.hidden >= 8 && shape.hidden % 8 == 0 && shape.ffn >= 8 && shape.ffn % 8 == 0,
                 "hidden is {} and ffn {}, must be multiples of 8", shape.hidden, shape.ffn);
  check_argument(shape.kv.page >= 1 && limits.chunk >= 1 && limits.chunk % shape.kv.page == 0,
                 "chunk is {} tokens, must be a multiple of the page, {}", limits.chunk,
                 shape.kv.page);
  check_argument(limits.tokens >= 1, "tokens is {}, must be 1 or more", limits.tokens);
  (void)prefill_head_dim(shape.kv.head_dim);
}

Arrays Prefill::Impl::take(Parts& parts, int64_t tokens, int64_t kept, int64_t queries) const {
  const KvGeometry& kv = shape.kv;
  const auto all = static_cast<size_t>(tokens);
  const int64_t pages = (tokens + kv.page - 1) / kv.page;
  const auto computed = static_cast<size_t>(tokens - kept);
  const auto chunk = std::min(computed, static_cast<size_t>(limits.chunk));
  const auto chunk_pages =
      std::min(static_cast<size_t>(pages), static_cast<size_t>(limits.chunk / kv.page));
  const auto hidden = static_cast<size_t>(shape.hidden), ffn = static_cast<size_t>(shape.ffn);
  const auto stored = static_cast<size_t>(prefill_head_dim(kv.head_dim));
  const auto dim = static_cast<size_t>(kv.head_dim);
  const auto heads = static_cast<size_t>(kv.query_heads());
  const auto kv_row = static_cast<size_t>(kv.kv_heads) * stored;
  Arrays at;
  at.ids = parts.take<int32_t>(computed * sizeof(int32_t));
  at.x = parts.take<float>(computed * hidden * sizeof(float));
  at.key = parts.take(all * kv_row * kValueBytes);
  at.value = parts.take(all * kv_row * kValueBytes);
  at.normed = parts.take(chunk * hidden * kValueBytes);
  at.qkv = parts.take<float>(chunk * static_cast<size_t>(qkv_width()) * sizeof(float));
  at.q = parts.take(chunk * heads * stored * kValueBytes);
  at.attended = parts.take(chunk * heads * stored * kValueBytes);
  at.attention = stored == dim ? at.attended : parts.take(chunk * heads * dim * kValueBytes);
  at.gate_up = parts.take(chunk * 2 * ffn * kValueBytes);
  at.activated = parts.take(chunk * ffn * kValueBytes);
  for (void*& staging : at.staging) {
    staging = parts.take(chunk_pages * static_cast<size_t>(kv.slot()) * kValueBytes);
  }
  at.common = parts.take<Move>(static_cast<size_t>(pages) * sizeof(Move));
  at.logits = parts.take<float>(static_cast<size_t>(shape.vocab) * sizeof(float));
  at.queries = parts.take(static_cast<size_t>(shape.layers * queries) * query_bytes());
  return at;
}

// Reads a layer of the prefix, all of it before anything is written: it may be the sequence's own.
void Prefill::Impl::queue_prefix(const Run& run, int32_t layer) {
  const KvPrefix& prefix = run.prefix;
  if (prefix.tokens == 0) return;
  const Decoder& from = *prefix.decoder;
  collect_pages({.kv = from.shape().kv,
                 .map = from.map(),
                 .layer = from.layer(prefix.sequence, layer),
                 .held = from.tokens(prefix.sequence),
                 .end = prefix.tokens,
                 .key = run.at.key,
                 .value = run.at.value},
                compute);
  const SequenceLayer& to = run.decoder.layer(run.sequence, layer);
  int64_t first = run.stays() ? prefix.tokens / shape.kv.page * shape.kv.page : 0;
  do {
    const int64_t n = std::min<int64_t>(limits.chunk, prefix.tokens - first);
    queue_pages(run, to, first, n);
    first += n;
  } while (first < prefix.tokens);
}

void Prefill::Impl::queue_chunk(const Run& run, int32_t layer, int64_t first, int64_t n) {
  const DecoderLayer& w = weights.layers[static_cast<size_t>(layer)];
  const Arrays& at = run.at;
  norm_rows({.x = run.x(first, shape.hidden),
             .weight = w.attention_norm,
             .out = at.normed,
             .n = n,
             .hidden = shape.hidden,
             .eps = shape.norm_eps},
            compute);
  gemm.run({.x = at.normed,
            .weight = w.qkv,
            .out = at.qkv,
            .type = GemmOutput::kF32,
            .rows = n,
            .n = qkv_width(),
            .k = shape.hidden},
           compute);
  rotate_rows({.kv = shape.kv,
               .qkv = at.qkv,
               .bias = w.qkv_bias,
               .q_norm = w.q_norm,
               .k_norm = w.k_norm,
               .frequencies = weights.frequencies,
               .rope = shape.rope,
               .rope_scale = shape.rope_scale,
               .norm_eps = shape.norm_eps,
               .first = first,
               .n = n,
               .q = at.q,
               .key = at.key,
               .value = at.value},
              compute);
  queue_queries(run, layer, first, n);
  queue_pages(run, run.decoder.layer(run.sequence, layer), first, n);
  // Nothing reads what the last layer would add to tokens before the last chunk.
  if (layer == shape.layers - 1 && first + n < run.tokens) return;
  queue_attention(run, w, first, n);
  queue_ffn(run, w, first, n);
}

void Prefill::Impl::queue_queries(const Run& run, int32_t layer, int64_t first, int64_t n) {
  const int64_t asked = run.tokens - run.queries;  // the first token whose queries are
  const int64_t from = std::max(first, asked);
  if (from >= first + n) return;
  const auto offset = [&](int64_t tokens) { return static_cast<size_t>(tokens) * query_bytes(); };
  check_cuda(cudaMemcpyAsync(static_cast<std::byte*>(run.at.queries) +
                                 offset(layer * run.queries + from - asked),
                             static_cast<const std::byte*>(run.at.q) + offset(from - first),
                             offset(first + n - from), cudaMemcpyDeviceToDevice, compute),
             "the queries of a chunk");
}

void Prefill::Impl::queue_attention(const Run& run, const DecoderLayer& w, int64_t first,
                                    int64_t n) {
  const Arrays& at = run.at;
  const KvGeometry& kv = shape.kv;
  float* x = run.x(first, shape.hidden);
  prefill_attention({.kv = kv,
                     .q = at.q,
                     .key = at.key,
                     .value = at.value,
                     .out = at.attended,
                     .n = n,
                     .context = first + n},
                    compute);
  if (at.attention != at.attended) {
    drop_padding({.padded = at.attended,
                  .out = at.attention,
                  .rows = n * kv.query_heads(),
                  .dim = kv.head_dim,
                  .stride = prefill_head_dim(kv.head_dim)},
                 compute);
  }
  if (w.output_bias) {
    add_bias({.bias = w.output_bias, .x = x, .n = n, .hidden = shape.hidden}, compute);
  }
  gemm.run({.x = at.attention,
            .weight = w.output,
            .out = x,
            .type = GemmOutput::kF32,
            .rows = n,
            .n = shape.hidden,
            .k = int64_t{kv.query_heads()} * kv.head_dim,
            .accumulate = true},
           compute);
}

void Prefill::Impl::queue_ffn(const Run& run, const DecoderLayer& w, int64_t first, int64_t n) {
  const Arrays& at = run.at;
  float* x = run.x(first, shape.hidden);
  norm_rows({.x = x,
             .weight = w.ffn_norm,
             .out = at.normed,
             .n = n,
             .hidden = shape.hidden,
             .eps = shape.norm_eps},
            compute);
  gemm.run({.x = at.normed,
            .weight = w.gate_up,
            .out = at.gate_up,
            .type = GemmOutput::kBF16,
            .rows = n,
            .n = 2 * int64_t{shape.ffn},
            .k = shape.hidden},
           compute);
  gate_rows({.gate_up = at.gate_up, .out = at.activated, .n = n, .ffn = shape.ffn}, compute);
  gemm.run({.x = at.activated,
            .weight = w.down,
            .out = x,
            .type = GemmOutput::kF32,
            .rows = n,
            .n = shape.hidden,
            .k = shape.ffn,
            .accumulate = true},
           compute);
}

// The chunk's pages to where the decoder reads them, all from the layer's KV on the device.
void Prefill::Impl::queue_pages(const Run& run, const SequenceLayer& layer, int64_t first,
                                int64_t n) {
  const KvGeometry& kv = shape.kv;
  const LayerKv from{.kv = kv, .key = run.at.key, .value = run.at.value, .tokens = first + n};
  const auto page = static_cast<int32_t>(first / kv.page);
  const int32_t complete = static_cast<int32_t>((first + n) / kv.page) - page;
  const bool ends = first + n == run.tokens;
  if (layer.sketch) {
    sketch_pages({.kv = kv,
                  .layer = layer,
                  .first = page,
                  .count = complete,
                  .keys = from.key,
                  .key_stride = prefill_head_dim(kv.head_dim)},
                 compute);
  }
  if (!layer.budgeted) {
    const bool unfinished = (first + n) % kv.page != 0;
    place_pages({.from = from,
                 .first_slot = page,
                 .first = page,
                 .count = complete + (unfinished ? 1 : 0),
                 .fast = layer.fast},
                compute);
    return;
  }
  queue_offload(from, layer, page, complete, run.at);
  if (ends) {
    place_pages({.from = from,
                 .moves = run.at.common,
                 .first_slot = run.decoder.map().sink,
                 .count = run.common_pages,
                 .fast = layer.fast},
                compute);
  }
}

void Prefill::Impl::queue_offload(const LayerKv& from, const SequenceLayer& layer, int32_t first,
                                  int32_t count, const Arrays& at) {
  if (count == 0) return;
  const int i = turn ^= 1;
  copied[i].hold(compute);  // the copy before last: long done
  if (layer.token_major) {
    place_pages({.from = from, .first = first, .count = count, .fast = at.staging[i]}, compute);
  } else {
    pack_pages(from, first, count, at.staging[i], compute);
  }
  packed[i].record(compute);
  packed[i].hold(copy);
  const auto slot_bytes = static_cast<size_t>(shape.kv.slot()) * kValueBytes;
  check_cuda(cudaMemcpyAsync(
                 static_cast<std::byte*>(layer.slow) + static_cast<size_t>(first) * slot_bytes,
                 at.staging[i], static_cast<size_t>(count) * slot_bytes, cudaMemcpyDefault, copy),
             "pages to the slow tier");
  copied[i].record(copy);
}

void Prefill::Impl::queue_logits(const Run& run, float* logits) {
  const Arrays& at = run.at;
  gemv({.x = run.x(run.tokens - 1, shape.hidden),
        .weight = weights.logits,
        .out = at.logits,
        .rows = 1,
        .n = shape.vocab,
        .k = shape.hidden,
        .norm = weights.final_norm,
        .norm_eps = shape.norm_eps},
       compute);
  check_cuda(cudaMemcpyAsync(logits, at.logits, static_cast<size_t>(shape.vocab) * sizeof(float),
                             cudaMemcpyDefault, compute),
             "the logits");
}

// What computed them has finished.
void Prefill::Impl::hand_over_queries(const Run& run, const DeviceQueries& to) const {
  if (run.queries == 0) return;
  const KvGeometry& kv = shape.kv;
  const size_t bytes = static_cast<size_t>(run.queries) * query_bytes();
  std::vector<std::byte> padded(bytes);
  std::vector<float> values(static_cast<size_t>(run.queries * kv.query_heads() * kv.head_dim));
  const View<float, 3> q(values.data(), run.queries, kv.query_heads(), kv.head_dim);
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    check_cuda(cudaMemcpyAsync(padded.data(),
                               static_cast<const std::byte*>(run.at.queries) +
                                   static_cast<size_t>(layer) * bytes,
                               bytes, cudaMemcpyDeviceToHost, compute),
               "the queries of a layer");
    compute.synchronize();
    load_padded_rows(kv.type, padded.data(), prefill_head_dim(kv.head_dim), q);
    to.take(layer, q);
  }
}

Prefill::Prefill(const DecoderShape& shape, DecoderWeights weights, const PrefillLimits& limits)
    : impl_(std::make_unique<Impl>(shape, std::move(weights), limits)) {}
Prefill::~Prefill() = default;

size_t Prefill::bytes(int64_t tokens) const { return impl_->bytes(tokens, 0, 0); }

void Prefill::run(Decoder& decoder, int32_t sequence, std::span<const int32_t> ids,
                  const std::function<bool(int64_t)>& proceed, float* logits,
                  const KvPrefix& prefix, const DeviceQueries& queries) {
  Impl& p = *impl_;
  const auto tokens = static_cast<int64_t>(ids.size());
  check_argument(tokens >= 1 && tokens <= p.limits.tokens, "a prompt of {} tokens, must be 1 to {}",
                 tokens, p.limits.tokens);
  const int32_t room = decoder.layer(sequence, 0).max_pages;
  check_argument(decoder.map().pages(tokens) <= room,
                 "a prompt of {} pages, the sequence has room for {}", decoder.map().pages(tokens),
                 room);
  for (const int32_t id : ids) {
    check_argument(id >= 0 && id < p.shape.vocab, "token {} is outside the {} of the model", id,
                   p.shape.vocab);
  }
  const int64_t kept = prefix.tokens;
  if (kept > 0) check_prefix(prefix, p.shape, tokens);
  decoder.drain();  // steps of a sequence that is begun anew
  if (kept > 0) prefix.decoder->drain();

  const int64_t asked = queries.take ? tokens - std::clamp(queries.first, kept, tokens) : 0;
  const DeviceBuffer memory(p.bytes(tokens, kept, asked));
  const std::vector<Move> common = common_pages(decoder.map(), tokens);
  const Drain drain{p.compute, p.copy};
  Parts parts(memory.data());
  const Impl::Run run{.decoder = decoder,
                      .sequence = sequence,
                      .tokens = tokens,
                      .prefix = prefix,
                      .queries = asked,
                      .at = p.take(parts, tokens, kept, asked),
                      .common_pages = static_cast<int32_t>(common.size())};
  const auto computed = ids.subspan(static_cast<size_t>(kept));
  check_cuda(cudaMemcpyAsync(run.at.ids, computed.data(), computed.size_bytes(),
                             cudaMemcpyHostToDevice, p.compute),
             "the prompt");
  check_cuda(cudaMemcpyAsync(run.at.common, common.data(), common.size() * sizeof(Move),
                             cudaMemcpyHostToDevice, p.compute),
             "the pages that all heads attend to");
  if (!computed.empty()) {
    embed({p.weights.embedding, run.at.ids, run.at.x, static_cast<int32_t>(computed.size()),
           p.shape.hidden},
          p.compute);
  }
  PrefillProgress progress(proceed);
  for (int32_t layer = 0; layer < p.shape.layers; ++layer) {
    p.queue_prefix(run, layer);
    if (computed.empty()) {
      progress.wait(1);
      progress.mark(run.done(layer, tokens, p.shape.layers), p.compute);
    }
    for (int64_t first = kept; first < tokens; first += p.limits.chunk) {
      progress.wait(1);
      const int64_t n = std::min<int64_t>(p.limits.chunk, tokens - first);
      p.queue_chunk(run, layer, first, n);
      progress.mark(run.done(layer, first + n, p.shape.layers), p.compute);
    }
  }
  if (!computed.empty()) p.queue_logits(run, logits);
  progress.wait(0);
  p.compute.synchronize();
  p.copy.synchronize();
  p.hand_over_queries(run, queries);
  decoder.begin_placed(sequence, tokens);
}

}  // namespace freekv::cuda
