// Scalar reference of decode attention, over attend(). Contract: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"

namespace freekv::reference {

void decode_attention(ExecutionContext& ctx, View<const float, 3> q,
                      std::span<const AttentionRow> rows, float scale, View<float, 3> out,
                      View<float, 2> log_mass = {});

}  // namespace freekv::reference
