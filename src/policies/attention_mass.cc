#include "policies/attention_mass.hpp"

#include <algorithm>
#include <cmath>

#include "core/check.hpp"
#include "core/dot.hpp"

namespace freekv {
namespace {

// Softmax terms of one query over one page.
struct Part {
  float most = -INFINITY;  // the largest logit
  float sum = 0;           // of exp(logit - most)
};

// The scratch of a call, cut up.
struct Scratch {
  std::span<float> keys;    // [p, d] of one page
  std::span<float> logits;  // [p] of one query
  std::span<Part> parts;    // [T * G, pages]
};

Scratch cut(std::span<float> all, const QueryBlock& queries, const KvShape& shape, size_t pages) {
  check_internal(all.size() >= attention_mass_scratch(queries, shape, pages),
                 "scratch of {} floats, {} are needed", all.size(),
                 attention_mass_scratch(queries, shape, pages));
  const auto keys = static_cast<size_t>(shape.page) * static_cast<size_t>(queries.dim);
  const auto page = static_cast<size_t>(shape.page);
  // A Part is two floats.
  return {all.first(keys),
          all.subspan(keys, page),
          {reinterpret_cast<Part*>(all.data() + keys + page),
           static_cast<size_t>(queries.tokens * queries.group) * pages}};
}

// Calls body(query, page, logits) for every page and every query that sees it, pages first: a
// page's keys are converted once.
template <typename Body>
void for_logits(const AttentionRow& row, const QueryBlock& queries, float scale, Scratch& scratch,
                const Body& body) {
  const int p = row.pool.shape.page;
  const auto pages = static_cast<int64_t>(row.slots.size());
  const int64_t seen_by_last = (pages - 1) * p + row.last_tokens;
  for (int64_t j = 0; j < pages; ++j) {
    const int64_t tokens = std::min<int64_t>(p, seen_by_last - j * p);
    const std::byte* keys = row.pool.keys(row.slots[static_cast<size_t>(j)], row.kv_head);
    for (int64_t u = 0; u < tokens; ++u) {
      load_row(row.pool.shape.dtype, keys + static_cast<size_t>(u) * row.pool.token_stride(),
               scratch.keys.subspan(static_cast<size_t>(u * queries.dim),
                                    static_cast<size_t>(queries.dim)));
    }
    for (int64_t t = 0; t < queries.tokens; ++t) {
      const int64_t seen = seen_by_last - (queries.tokens - 1 - t) - j * p;
      if (seen <= 0) continue;
      const auto logits = scratch.logits.first(static_cast<size_t>(std::min(seen, tokens)));
      for (int64_t g = 0; g < queries.group; ++g) {
        const float* q = queries.data + t * queries.stride + g * queries.dim;
        for (size_t u = 0; u < logits.size(); ++u) {
          logits[u] = scale * dot(q, scratch.keys.data() + u * static_cast<size_t>(queries.dim),
                                  queries.dim);
        }
        body(t * queries.group + g, j, logits);
      }
    }
  }
}

// Fills parts; `most` of each becomes the logarithm of the query's Z, the sum over all pages.
void sum_up(const AttentionRow& row, const QueryBlock& queries, float scale, Scratch& scratch) {
  const size_t pages = row.slots.size();
  std::fill(scratch.parts.begin(), scratch.parts.end(), Part{});
  for_logits(row, queries, scale, scratch,
             [&](int64_t query, int64_t page, std::span<const float> logits) {
               Part& part =
                   scratch.parts[static_cast<size_t>(query) * pages + static_cast<size_t>(page)];
               part.most = *std::max_element(logits.begin(), logits.end());
               for (const float logit : logits) part.sum += std::exp(logit - part.most);
             });
  for (int64_t query = 0; query < queries.tokens * queries.group; ++query) {
    const auto parts = scratch.parts.subspan(static_cast<size_t>(query) * pages, pages);
    float most = -INFINITY;
    for (const Part& part : parts) most = std::max(most, part.most);
    float total = 0;
    for (const Part& part : parts) total += part.sum * std::exp(part.most - most);
    for (Part& part : parts) part.most = most + std::log(total);
  }
}

}  // namespace

size_t attention_mass_scratch(const QueryBlock& queries, const KvShape& shape, size_t pages) {
  const auto page = static_cast<size_t>(shape.page);
  return page * static_cast<size_t>(queries.dim) + page +
         2 * static_cast<size_t>(queries.tokens * queries.group) * pages;
}

void add_page_mass(Backend& backend, const AttentionRow& row, const QueryBlock& queries,
                   float scale, std::span<float> scratch, std::span<double> mass) {
  const int p = row.pool.shape.page;
  const auto pages = static_cast<int64_t>(row.slots.size());
  check_internal(static_cast<int64_t>(mass.size()) >= pages,
                 "mass of {} pages, there is room for {}", pages, mass.size());
  check_internal(static_cast<int64_t>(scratch.size()) >= queries.group * pages,
                 "scratch of {} floats, {} are needed", scratch.size(), queries.group * pages);
  const double weight = 1.0 / static_cast<double>(queries.group);
  for (int64_t t = 0; t < queries.tokens; ++t) {
    const int64_t seen = (pages - 1) * p + row.last_tokens - (queries.tokens - 1 - t);
    if (seen <= 0) continue;
    AttentionRow visible = row;
    visible.slots = row.slots.first(static_cast<size_t>((seen + p - 1) / p));
    visible.last_tokens = static_cast<int>((seen - 1) % p) + 1;
    const auto n = static_cast<int64_t>(visible.slots.size());
    const View<float, 2> scores(scratch.data(), queries.group, n);
    backend.score_exact_pages(
        View<const float, 2>(queries.data + t * queries.stride, queries.group, queries.dim),
        visible, scale, scores);
    for (int64_t g = 0; g < queries.group; ++g) {
      const std::span<float> parts(scores[g].data(), static_cast<size_t>(n));
      const float most = *std::max_element(parts.begin(), parts.end());
      float total = 0;
      for (float& part : parts) total += part = std::exp(part - most);
      const double by = weight / static_cast<double>(total);
      for (size_t j = 0; j < parts.size(); ++j) mass[j] += by * static_cast<double>(parts[j]);
    }
  }
}

void add_token_mass(const AttentionRow& row, const QueryBlock& queries, float scale,
                    std::span<float> scratch, std::span<double> mass) {
  const size_t pages = row.slots.size();
  const auto p = static_cast<size_t>(row.pool.shape.page);
  check_internal(mass.size() >= pages * p, "mass of {} tokens, there is room for {}", pages * p,
                 mass.size());
  Scratch memory = cut(scratch, queries, row.pool.shape, pages);
  sum_up(row, queries, scale, memory);
  const double weight = 1.0 / static_cast<double>(queries.group);
  for_logits(row, queries, scale, memory,
             [&](int64_t query, int64_t page, std::span<const float> logits) {
               const auto at = static_cast<size_t>(page);
               const float log_total = memory.parts[static_cast<size_t>(query) * pages + at].most;
               for (size_t u = 0; u < logits.size(); ++u) {
                 mass[at * p + u] += weight * static_cast<double>(std::exp(logits[u] - log_total));
               }
             });
}

}  // namespace freekv
