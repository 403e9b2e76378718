// The operations a backend provides; everything above is written once over these. Each exists as
// scalar reference, SIMD and CUDA, held against each other by one table of cases.
//
// All activations are f32, row-major and contiguous. Shapes: T tokens (or rows of a batch),
// D hidden size, F feed-forward size, H query heads, M KV heads, G = H / M, d head dimension,
// p tokens per page. Outputs never alias inputs unless said. Operations block until done, and
// after reserve() allocate nothing. Results depend on the inputs alone, not on the thread count.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "backends/activations.hpp"
#include "backends/tensors.hpp"
#include "core/view.hpp"
#include "device/execution_context.hpp"

namespace freekv {

/// The largest sizes a backend will be asked for; reserve() sizes its scratch memory by them.
struct BackendLimits {
  int64_t max_rows = 1;         // sequences in a decode batch
  int64_t max_chunk = 512;      // tokens of a prefill chunk
  int64_t max_cols = 0;         // widest weight matrix input, K
  int64_t max_weight_rows = 0;  // most outputs of a weight matrix, N
  int64_t max_pages = 0;        // pages of the longest sequence
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int page = 32;
};

/// One KV head of one sequence in decode attention: which slots it attends to.
/// `slots` are in the order of their logical pages, so that sums do not depend on placement. All
/// pages are full but the last, which holds `last_tokens` (1..p).
struct AttentionRow {
  KvPool pool;
  int kv_head = 0;
  std::span<const int32_t> slots;
  int last_tokens = 0;
};

struct PrefillAttention {
  View<const float, 3> q;          // [T, H, d], after RoPE
  KvPool pool;                     // already holds the K and V of these T tokens
  std::span<const int32_t> slots;  // of all pages of the sequence so far, in order, for all heads
  int64_t position = 0;            // of the first of the T tokens; token t sees [0, position + t]
  float scale = 1;
  View<float, 3> out;  // [T, H, d]
};

struct PrefillMass {
  View<const float, 3> q;          // [T, H, d], after RoPE
  KvPool pool;                     // already holds the keys of these T tokens
  std::span<const int32_t> slots;  // of all pages of the sequence so far, in order, for all heads
  int64_t position = 0;            // of the first of the T tokens; token t sees [0, position + t]
  float scale = 1;
  View<double, 2> mass;  // [M, n]: of `unit` tokens each, as many as there are tokens so far
  int unit = 1;          // the page, or 1
};

/// Precomputed rotation: cos/sin [positions, d/2].
struct RopeTable {
  View<const float, 2> cos;
  View<const float, 2> sin;
};

enum class RopeStyle : uint8_t {
  kInterleaved,  // rotates (2i, 2i+1): GGUF's llama order
  kHalves,       // rotates (i, i + d/2): Hugging Face's order
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  virtual void reserve(ExecutionContext& ctx, const BackendLimits& limits) = 0;

  // --- projections and elementwise work --------------------------------------------------------
  /// out[t] = table[ids[t]] as f32. table [V, D]; ids were checked against V.
  virtual void embed(ExecutionContext& ctx, const WeightView& table, std::span<const int32_t> ids,
                     View<float, 2> out) = 0;
  /// out = x / rms(x) * weight per row; rms = sqrt(mean(x^2) + eps); out may alias x.
  virtual void rms_norm(ExecutionContext& ctx, View<const float, 2> x, View<const float, 1> weight,
                        float eps, View<float, 2> out) = 0;
  /// out[t, n] (+)= x[t] . weight[n], for the rows of a decode batch: each row's result is the
  /// same whatever the other rows are and however many (invariant: a batch changes nothing). With
  /// weights that takes_int8() is true of, x is rounded to 8 bits first: see activations.hpp.
  virtual void linear(ExecutionContext& ctx, View<const float, 2> x, const WeightView& weight,
                      bool accumulate, View<float, 2> out) = 0;
  /// The same for a prefill chunk, through a GEMM; sums may be ordered otherwise than linear()'s,
  /// but do not depend on the chunk: a row gives the same bits in any.
  virtual void linear_prefill(ExecutionContext& ctx, View<const float, 2> x,
                              const WeightView& weight, bool accumulate, View<float, 2> out) = 0;
  /// x[t] += bias, for every row of x [T, N].
  virtual void add_bias(ExecutionContext& ctx, View<const float, 1> bias, View<float, 2> x) = 0;
  /// Rotates x [T, heads, d] in place; row t stands at positions[t] of the table.
  virtual void rope(ExecutionContext& ctx, View<float, 3> x, std::span<const int64_t> positions,
                    const RopeTable& table, RopeStyle style) = 0;
  /// out = silu(gate) * up, elementwise [T, F]; out may alias gate.
  virtual void swiglu(ExecutionContext& ctx, View<const float, 2> gate, View<const float, 2> up,
                      View<float, 2> out) = 0;

  // --- KV ---------------------------------------------------------------------------------------
  /// Writes k, v [T, M, d] for one sequence: token t goes to slots[(first + t) / p] at
  /// (first + t) % p, where `first` is the offset in the first of these slots.
  virtual void append_kv(ExecutionContext& ctx, View<const float, 3> k, View<const float, 3> v,
                         const KvPool& pool, std::span<const int32_t> slots, int first) = 0;
  /// Copies K and V of one head's page between pools of any layout; same shape. Bytes are kept.
  /// Single-threaded and safe to call from a recall thread.
  virtual void copy_head_page(const KvPool& from, int32_t from_slot, const KvPool& to,
                              int32_t to_slot, int head) = 0;
  /// Attention of a decode batch, flash-decoding over pages. q, out [R, G, d], one AttentionRow
  /// per r = (sequence, KV head). A row without slots gives zeros. log_mass [R, G], where there is
  /// one: ln sum exp(scale * q . k) over all that the row attends to, -infinity without slots.
  virtual void decode_attention(ExecutionContext& ctx, View<const float, 3> q,
                                std::span<const AttentionRow> rows, float scale, View<float, 3> out,
                                View<float, 2> log_mass) = 0;
  /// Exact causal attention of one chunk of one sequence.
  virtual void prefill_attention(ExecutionContext& ctx, const PrefillAttention& params) = 0;
  /// mass[m, j] += the part of each of these tokens' attention, mean over KV head m's group, that
  /// goes to the j-th page, or token. Sums go token by token, so that chunks may be cut anywhere.
  virtual void prefill_mass(ExecutionContext& ctx, const PrefillMass& params) = 0;

  // --- selection --------------------------------------------------------------------------------
  /// Sketches the complete page of `head` in `slot` into index `page` of the sketch.
  /// Single-threaded. Values are rounded to the sketch's dtype (minmax is then exact).
  virtual void build_box_sketch(const KvPool& pool, int32_t slot, int head,
                                const BoxSketchView& sketch, int64_t page) = 0;
  /// scores[g, j - first] = sum_e max(q[g,e] * hi[j,e], q[g,e] * lo[j,e]) for pages
  /// first <= j < first + n, n = scores.shape(1) (Quest, section 3.2). q [G, d]. Single-threaded.
  virtual void score_box_pages(View<const float, 2> q, const BoxSketchView& sketch, int64_t first,
                               View<float, 2> scores) = 0;
  /// Sketches the complete page of `head` in `slot` into index `page` of the sketch: lo is a
  /// channel's lowest key, step a quarter of its range in the sketch's dtype, a level
  /// (key - lo) / step rounded down. All backends write the same bytes. Single-threaded.
  virtual void build_key2_sketch(const KvPool& pool, int32_t slot, int head,
                                 const Key2SketchView& sketch, int64_t page) = 0;
  /// scores[g, i] = ln sum_u exp(scale * q[g] . key[u]) over the tokens u of page pages[i]: its
  /// attention mass as the sketch estimates it. q [G, d], scores [G, pages]. The product is
  /// sum_e q * (lo + step / 2) + unit * sum_e w * level, where unit is the largest |q * step| of
  /// the page over 127 and w = q * step / unit, rounded to whole numbers (to even where halfway;
  /// all 0 below a largest of 2^-100): whole products of 8 bits. Single-threaded.
  virtual void score_key2_pages(View<const float, 2> q, const Key2SketchView& sketch, float scale,
                                std::span<const int32_t> pages, View<float, 2> scores) = 0;
  /// scores[g, i] = ln sum_u exp(scale * q[g] . k[u]) over the tokens u of the row's i-th page:
  /// its exact attention mass. q [G, d], scores [G, pages]. Single-threaded.
  virtual void score_exact_pages(View<const float, 2> q, const AttentionRow& row, float scale,
                                 View<float, 2> scores) = 0;
  /// Pools scores [G, n] over the group to pooled [n]; `scale` multiplies scores before a softmax
  /// over the n pages. Destroys scores; a softmax leaves exp(scale * (score - the head's highest))
  /// of them. Single-threaded.
  virtual void pool_scores(Pooling pooling, float scale, View<float, 2> scores,
                           View<float, 1> pooled) = 0;
  /// Writes the mean of the complete page's values of `head` in `slot` to index `page` of `means`,
  /// whose dtype is the pool's. Single-threaded.
  virtual void build_mean_values(const KvPool& pool, int32_t slot, int head,
                                 const MeanValuesView& means, int64_t page) = 0;
  /// out[g] += sum_i weights[g, i] * mean value of page first + i; weights [G, n], out [G, d].
  /// Means of pages whose weights are all 0 are not read. Single-threaded.
  virtual void add_mean_values(View<const float, 2> weights, const MeanValuesView& means,
                               int64_t first, View<float, 2> out) = 0;
  /// The indices of the k largest values, ascending by index; of equal values the lower index
  /// wins; NaN counts as the smallest. out.size() == min(k, n). Single-threaded.
  virtual void top_k(View<const float, 1> values, std::span<int32_t> out) = 0;
  /// out[r] = mean over the group of cos(q[r,g], previous[r,g]); q [R, G, d]. A zero vector's
  /// cosine is 0 (FreeKV, section 4.2: the correction test).
  virtual void mean_cosine(ExecutionContext& ctx, View<const float, 3> q,
                           View<const float, 3> previous, View<float, 1> out) = 0;
};

/// The scalar oracle: one clear loop per operation, sums in f64 where order would matter.
std::unique_ptr<Backend> make_reference_backend(Activations activations = Activations::kAuto);
/// SIMD with run-time dispatch (Highway), matrix products included: no BLAS is needed.
std::unique_ptr<Backend> make_cpu_backend(Activations activations = Activations::kAuto);

}  // namespace freekv
