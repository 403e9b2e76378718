#include "backends/reference/prefill_mass.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/projection_checks.hpp"

namespace freekv::reference {
namespace {

/// q . k of the first tokens of a head.
void score(View<const float, 1> q, const PrefillMass& p, int head, std::span<double> scores) {
  const KvShape& shape = p.pool.shape;
  for (size_t t = 0; t < scores.size(); ++t) {
    const auto page = static_cast<size_t>(shape.page);
    const std::byte* key = p.pool.keys(p.slots[t / page], head) + t % page * p.pool.token_stride();
    double dot = 0;
    for (int e = 0; e < shape.head_dim; ++e) {
      dot += static_cast<double>(q[e]) * load_element(shape.dtype, key, e);
    }
    scores[t] = p.scale * dot;
  }
}

}  // namespace

void prefill_mass(ExecutionContext& ctx, const PrefillMass& params) {
  check_prefill_mass(params);
  const int64_t group = params.q.shape(1) / params.pool.shape.heads;
  const auto unit = static_cast<size_t>(params.unit);
  ctx.pool().parallel_for(params.pool.shape.heads, 1, [&](int64_t begin, int64_t end, int) {
    std::vector<double> scores;
    for (int64_t head = begin; head < end; ++head) {
      for (int64_t t = 0; t < params.q.shape(0); ++t) {
        scores.resize(static_cast<size_t>(params.position + t + 1));
        for (int64_t g = 0; g < group; ++g) {
          score(params.q[t][head * group + g], params, static_cast<int>(head), scores);
          const double most = *std::max_element(scores.begin(), scores.end());
          double total = 0;
          for (double& each : scores) total += each = std::exp(each - most);
          for (size_t u = 0; u < scores.size(); ++u) {
            params.mass[head].data()[u / unit] += scores[u] / total / static_cast<double>(group);
          }
        }
      }
    }
  });
}

}  // namespace freekv::reference
