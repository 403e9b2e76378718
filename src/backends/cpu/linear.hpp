// Linear layers of a decode batch: bound by reading the weights, which happens once, in the dtype
// they are stored in. Contract: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"

namespace freekv::cpu {

void linear(ExecutionContext& ctx, View<const float, 2> x, const WeightView& weight,
            bool accumulate, View<float, 2> out);

}  // namespace freekv::cpu
