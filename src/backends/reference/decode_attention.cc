#include "backends/reference/decode_attention.hpp"

#include "backends/kv_checks.hpp"
#include "backends/reference/attend.hpp"

namespace freekv::reference {

void decode_attention(ExecutionContext& ctx, View<const float, 3> q,
                      std::span<const AttentionRow> rows, float scale, View<float, 3> out,
                      View<float, 2> log_mass) {
  check_decode(q, rows, out, log_mass);
  ctx.pool().parallel_for(q.shape(0), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const AttentionRow& row = rows[static_cast<size_t>(r)];
      for (int64_t g = 0; g < q.shape(1); ++g) {
        const double mass = attend(q[r][g].flat(), row.pool, row.kv_head, row.slots,
                                   attended_tokens(row), scale, out[r][g].flat());
        if (log_mass.data()) log_mass[r][g] = static_cast<float>(mass);
      }
    }
  });
}

}  // namespace freekv::reference
