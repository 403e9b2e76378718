#include "engine/workspace.hpp"

#include <numeric>

namespace freekv {

Workspace::Workspace(const ModelConfig& config, int64_t rows, int64_t batch) : config_(config) {
  rows = std::max(rows, batch);
  const int64_t pairs = config.head_dim / 2;
  struct Part {
    float** pointer;
    int64_t count;
  };
  const Part parts[] = {{&hidden_, rows * config.hidden},
                        {&normed_, rows * config.hidden},
                        {&q_, rows * q_width()},
                        {&k_, rows * kv_width()},
                        {&v_, rows * kv_width()},
                        {&attention_, rows * q_width()},
                        {&log_mass_, batch * config.query_heads},
                        {&gate_, rows * config.ffn},
                        {&up_, rows * config.ffn},
                        {&cos_, rows * pairs},
                        {&sin_, rows * pairs},
                        {&logits_, batch * config.vocab}};
  const auto padded = [](int64_t count) { return (static_cast<size_t>(count) + 15) / 16 * 16; };
  size_t total = 0;
  for (const Part& part : parts) total += padded(part.count);
  buffer_ = Buffer(total * sizeof(float));
  float* next = buffer_.as<float>().data();
  for (const Part& part : parts) {
    *part.pointer = next;
    next += padded(part.count);
  }
  row_indices_.resize(static_cast<size_t>(rows));
  std::iota(row_indices_.begin(), row_indices_.end(), 0);
  positions_.resize(static_cast<size_t>(rows));
  attention_rows_.resize(static_cast<size_t>(batch * config.kv_heads));
}

RopeTable Workspace::rope_table(const RopeFrequencies& frequencies, std::span<const int64_t> at,
                                int64_t length) {
  const auto n = static_cast<int64_t>(at.size());
  const View<float, 2> cos(cos_, n, frequencies.pairs());
  const View<float, 2> sin(sin_, n, frequencies.pairs());
  for (int64_t t = 0; t < n; ++t) {
    const int64_t position = at[static_cast<size_t>(t)];
    frequencies.fill(position, length > 0 ? length : position + 1, cos[t], sin[t]);
  }
  return {cos, sin};
}

}  // namespace freekv
