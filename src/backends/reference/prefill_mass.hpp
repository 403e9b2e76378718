// Scalar reference of the attention mass of pages in a chunk. Contract: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"

namespace freekv::reference {

void prefill_mass(ExecutionContext& ctx, const PrefillMass& params);

}  // namespace freekv::reference
