// How the attention of a chunk's queries is spread over pages: prefill attention's scores and
// softmax without its values. Contract: Backend in backend.hpp.
#pragma once

#include "backends/backend.hpp"
#include "device/buffer.hpp"

namespace freekv::cpu {

/// Blocks of Q, K and scores as prefill attention has them, and the shares of the pages of as many
/// rows as are worked on together: address space for the longest sequence.
struct PrefillMassScratch {
  Buffer blocks;  // one set per worker
  Buffer
      shares;  // [rows, pages], of a block of rows for every worker, or KV head where they are more

  void reserve(ExecutionContext& ctx, const BackendLimits& limits);
};

void prefill_mass(ExecutionContext& ctx, PrefillMassScratch& scratch, const PrefillMass& params);

}  // namespace freekv::cpu
