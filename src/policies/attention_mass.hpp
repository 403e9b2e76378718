// Exact attention weights, for policies that decide by what attention looked at. Attention itself
// keeps no weights, so they are computed a second time from the same keys.
#pragma once

#include <cstdint>
#include <span>

#include "backends/backend.hpp"
#include "core/function_ref.hpp"

namespace freekv {

/// Queries of one KV head's group for T consecutive tokens: that of token t and group member g, d
/// values, begins at data + t * stride + g * dim.
struct QueryBlock {
  const float* data = nullptr;
  int64_t stride = 0;
  int64_t tokens = 0;  // T
  int64_t group = 0;   // G
  int64_t dim = 0;     // d
};

/// Floats of scratch that the functions below need for blocks of at most `tokens` tokens.
size_t attention_mass_scratch(const QueryBlock& queries, const KvShape& shape, size_t pages);

/// Adds to mass[i] the part of the attention of each token's query, mean over the group, that goes
/// to the page in row.slots[i]. The last query sees all tokens of the row, each one before it one
/// token less. Sums go token by token, so that blocks may be cut anywhere. One thread.
void add_page_mass(Backend& backend, const AttentionRow& row, const QueryBlock& queries,
                   float scale, std::span<float> scratch, std::span<double> mass);
/// The same for single tokens: mass [slots * p].
void add_token_mass(const AttentionRow& row, const QueryBlock& queries, float scale,
                    std::span<float> scratch, std::span<double> mass);

}  // namespace freekv
