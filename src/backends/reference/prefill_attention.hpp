// Scalar reference of prefill attention, over attend(). Contract: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"

namespace freekv::reference {

void prefill_attention(ExecutionContext& ctx, const PrefillAttention& params);

}  // namespace freekv::reference
