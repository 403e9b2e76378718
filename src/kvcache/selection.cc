#include "kvcache/selection.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "core/check.hpp"

namespace freekv {

namespace {

// The scores of `columns` pages; in a first stage these are the candidates.
View<float, 2> scores_of(const SelectionParams& params, const SelectionScratch& scratch,
                         PageRange columns) {
  const int64_t group = params.query.q.shape(0), n = columns.size();
  check_internal(static_cast<int64_t>(scratch.scores.size()) >= group * n,
                 "scratch for {} scores, {} are needed", scratch.scores.size(), group * n);
  return View<float, 2>(scratch.scores.data(), group, n);
}

View<float, 1> pooled_of(const SelectionScratch& scratch, PageRange columns) {
  check_internal(static_cast<int32_t>(scratch.pooled.size()) >= columns.size(),
                 "scratch for {} pages, {} are scored", scratch.pooled.size(), columns.size());
  return View<float, 1>(scratch.pooled.data(), columns.size());
}

// What a softmax over pages multiplies scores by.
float softmax_scale(const SelectionParams& params, ScoreKind kind) {
  return kind == ScoreKind::kLogMass ? 1 : params.query.scale;
}

void copy_scores(View<float, 2> to, int64_t column, View<const float, 2> scores) {
  for (int64_t g = 0; g < scores.shape(0); ++g) {
    std::copy_n(scores[g].data(), scores.shape(1), to[g].data() + column);
  }
}

// Calls body(first, scores [G, count]) for parts of `count` pages that a fixed array holds: the
// scores of a part do not lie together in [G, n].
template <typename Body>
void in_blocks(int64_t group, int32_t begin, int32_t end, Body&& body) {
  std::array<float, 4096> block;
  const auto most = static_cast<int32_t>(static_cast<int64_t>(block.size()) / group);
  check_internal(most > 0, "the group is {}, must be at most {}", group, block.size());
  for (; begin < end; begin += most) {
    body(begin, View<float, 2>(block.data(), group, std::min(most, end - begin)));
  }
}

int32_t listed_count(const SelectionParams& params, size_t wanted) {
  const double share = params.sketches->sketch().listed_share() * params.candidates.size();
  // Twice the selection leaves a choice where a context is short.
  const double count = std::max(std::ceil(share), 2 * static_cast<double>(wanted));
  return static_cast<int32_t>(std::min<double>(count, params.candidates.size()));
}

}  // namespace

bool has_choice(const SelectionParams& params, size_t wanted) {
  return static_cast<size_t>(params.candidates.size()) > wanted;
}

bool lists_candidates(const SelectionParams& params) {
  return params.sketches && params.sketches->sketch().listed_share() < 1;
}

bool has_first_stage(const SelectionParams& params, size_t wanted) {
  return lists_candidates(params) && listed_count(params, wanted) < params.candidates.size();
}

void write_scores(const SelectionParams& params, const SelectionScratch& scratch, int32_t first,
                  View<const float, 2> scores) {
  copy_scores(scores_of(params, scratch, params.columns), first - params.columns.first, scores);
}

void score_candidates(Backend& backend, const SelectionParams& params,
                      const SelectionScratch& scratch, bool first_stage, int32_t begin,
                      int32_t end) {
  const PageRange columns = first_stage ? params.candidates : params.columns;
  const View<float, 2> scores = scores_of(params, scratch, columns);
  in_blocks(scores.shape(0), begin, end, [&](int32_t at, View<float, 2> part) {
    const int32_t page = params.candidates.first + at;
    params.sketches->score(backend, params.head, params.query, page, part);
    copy_scores(scores, page - columns.first, part);
  });
}

int32_t list_candidates(Backend& backend, const SelectionParams& params,
                        const SelectionScratch& scratch, size_t wanted) {
  const int32_t count = listed_count(params, wanted);
  check_internal(static_cast<int32_t>(scratch.listed.size()) >= count,
                 "scratch for {} listed pages, {} are needed", scratch.listed.size(), count);
  const auto listed = scratch.listed.first(static_cast<size_t>(count));
  if (has_first_stage(params, wanted)) {
    // The largest of the group's shares: a page that one query head needs is worth a second look.
    const View<float, 1> pooled = pooled_of(scratch, params.candidates);
    backend.pool_scores(Pooling::kMaxSoftmax, softmax_scale(params, ScoreKind::kProduct),
                        scores_of(params, scratch, params.candidates), pooled);
    backend.top_k(pooled, listed);
    for (int32_t& page : listed) page += params.candidates.first;
  } else {
    std::iota(listed.begin(), listed.end(), params.candidates.first);
  }
  const auto scores = scores_of(params, scratch, params.columns).flat();
  std::fill(scores.begin(), scores.end(), -std::numeric_limits<float>::infinity());
  return count;
}

void score_listed(Backend& backend, const SelectionParams& params, const SelectionScratch& scratch,
                  std::span<const int32_t> pages) {
  const View<float, 2> scores = scores_of(params, scratch, params.columns);
  in_blocks(scores.shape(0), 0, static_cast<int32_t>(pages.size()),
            [&](int32_t at, View<float, 2> part) {
              const auto these =
                  pages.subspan(static_cast<size_t>(at), static_cast<size_t>(part.shape(1)));
              params.sketches->score_listed(backend, params.head, params.query, these, part);
              for (int64_t g = 0; g < part.shape(0); ++g) {
                for (size_t i = 0; i < these.size(); ++i) {
                  scores[g][these[i] - params.columns.first] = part[g][static_cast<int64_t>(i)];
                }
              }
            });
}

void pool_columns(Backend& backend, const SelectionParams& params,
                  const SelectionScratch& scratch) {
  const ScoreKind kind =
      params.sketches ? params.sketches->sketch().score_kind() : ScoreKind::kLogMass;
  backend.pool_scores(params.pooling, softmax_scale(params, kind),
                      scores_of(params, scratch, params.columns),
                      pooled_of(scratch, params.columns));
}

int32_t select_scored(Backend& backend, const SelectionParams& params,
                      const SelectionScratch& scratch, std::span<int32_t> out) {
  const int32_t n = params.candidates.size();
  if (!has_choice(params, out.size())) {
    std::iota(out.begin(), out.begin() + n, params.candidates.first);
    return n;
  }
  pool_columns(backend, params, scratch);
  const int32_t skipped = params.candidates.first - params.columns.first;
  backend.top_k(View<const float, 1>(scratch.pooled.data() + skipped, n), out);
  for (int32_t& page : out) page += params.candidates.first;
  return static_cast<int32_t>(out.size());
}

Pooling parse_pooling(std::string_view name) {
  static constexpr std::array<std::pair<std::string_view, Pooling>, 4> kNames{{
      {"mean_softmax", Pooling::kMeanSoftmax},
      {"max_softmax", Pooling::kMaxSoftmax},
      {"mean_score", Pooling::kMeanScore},
      {"max_score", Pooling::kMaxScore},
  }};
  for (const auto& [known, pooling] : kNames) {
    if (known == name) return pooling;
  }
  fail(ErrorCode::kInvalidArgument,
       "pooling is '{}', must be one of mean_softmax, max_softmax, mean_score, max_score", name);
}

}  // namespace freekv
