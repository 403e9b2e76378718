// Embedding, norms, rotation and gating with SIMD. Contracts: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"

namespace freekv::cpu {

void embed(ExecutionContext& ctx, const WeightView& table, std::span<const int32_t> ids,
           View<float, 2> out);
void rms_norm(ExecutionContext& ctx, View<const float, 2> x, View<const float, 1> weight, float eps,
              View<float, 2> out);
void add_bias(ExecutionContext& ctx, View<const float, 1> bias, View<float, 2> x);
void rope(ExecutionContext& ctx, View<float, 3> x, std::span<const int64_t> positions,
          const RopeTable& table, RopeStyle style);
void swiglu(ExecutionContext& ctx, View<const float, 2> gate, View<const float, 2> up,
            View<float, 2> out);

}  // namespace freekv::cpu
