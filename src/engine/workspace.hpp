// The activations of one step, taken once and reused by every layer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "backends/backend.hpp"
#include "device/buffer.hpp"
#include "model/model.hpp"

namespace freekv {

/// Sized for `rows` tokens of a prefill chunk or sequences of a decode batch, whichever is more,
/// and logits for `batch` sequences. Views are of the first n rows.
class Workspace {
 public:
  Workspace(const ModelConfig& config, int64_t rows, int64_t batch);

  View<float, 2> hidden(int64_t n) { return View<float, 2>(hidden_, n, config_.hidden); }
  View<float, 2> normed(int64_t n) { return View<float, 2>(normed_, n, config_.hidden); }
  View<float, 2> q(int64_t n) { return View<float, 2>(q_, n, q_width()); }
  View<float, 2> k(int64_t n) { return View<float, 2>(k_, n, kv_width()); }
  View<float, 2> v(int64_t n) { return View<float, 2>(v_, n, kv_width()); }
  View<float, 2> attention(int64_t n) { return View<float, 2>(attention_, n, q_width()); }
  /// Of attention's rows: ln of what each query head's softmax divides by.
  View<float, 2> log_mass(int64_t rows, int64_t group) {
    return View<float, 2>(log_mass_, rows, group);
  }
  View<float, 2> gate(int64_t n) { return View<float, 2>(gate_, n, config_.ffn); }
  View<float, 2> up(int64_t n) { return View<float, 2>(up_, n, config_.ffn); }
  View<float, 2> logits(int64_t n) { return View<float, 2>(logits_, n, config_.vocab); }

  /// cos/sin of the given positions; row t of a step stands at positions()[t] = t of this table.
  /// `length` is that of the sequence after a prefill, or 0 when each row is a decode step.
  RopeTable rope_table(const RopeFrequencies& frequencies, std::span<const int64_t> at,
                       int64_t length = 0);
  std::span<const int64_t> row_indices(int64_t n) const {
    return std::span(row_indices_).first(static_cast<size_t>(n));
  }
  /// Scratch for the positions of a step.
  std::span<int64_t> positions(int64_t n) {
    return std::span(positions_).first(static_cast<size_t>(n));
  }
  std::span<AttentionRow> attention_rows(int64_t n) {
    return std::span(attention_rows_).first(static_cast<size_t>(n));
  }

 private:
  int64_t q_width() const { return int64_t{config_.query_heads} * config_.head_dim; }
  int64_t kv_width() const { return int64_t{config_.kv_heads} * config_.head_dim; }

  ModelConfig config_;
  Buffer buffer_;
  float* hidden_ = nullptr;
  float* normed_ = nullptr;
  float* q_ = nullptr;
  float* k_ = nullptr;
  float* v_ = nullptr;
  float* attention_ = nullptr;
  float* log_mass_ = nullptr;
  float* gate_ = nullptr;
  float* up_ = nullptr;
  float* cos_ = nullptr;
  float* sin_ = nullptr;
  float* logits_ = nullptr;
  std::vector<int64_t> row_indices_;
  std::vector<int64_t> positions_;
  std::vector<AttentionRow> attention_rows_;
};

/// The same memory seen by heads: [n, heads * d] as [n, heads, d].
inline View<float, 3> by_heads(View<float, 2> x, int64_t heads) {
  return View<float, 3>(x.data(), x.shape(0), heads, x.shape(1) / heads);
}

}  // namespace freekv
