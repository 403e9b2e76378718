#include "backends/reference/prefill_attention.hpp"

#include "backends/projection_checks.hpp"
#include "backends/reference/attend.hpp"

namespace freekv::reference {

void prefill_attention(ExecutionContext& ctx, const PrefillAttention& params) {
  check_prefill_attention(params);
  const int64_t heads = params.q.shape(1);
  const int64_t group = heads / params.pool.shape.heads;
  ctx.pool().parallel_for(params.q.shape(0), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        attend(params.q[t][h].flat(), params.pool, static_cast<int>(h / group), params.slots,
               params.position + t + 1, params.scale, params.out[t][h].flat());
      }
    }
  });
}

}  // namespace freekv::reference
