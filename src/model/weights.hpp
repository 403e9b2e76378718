// The tensors of a model, borrowed from its mapped file in the form they have there.
#pragma once

#include <vector>

#include "backends/tensors.hpp"
#include "core/view.hpp"
#include "model/config.hpp"

namespace freekv {

struct LayerWeights {
  View<const float, 1> attention_norm;  // [D]
  WeightView q;                         // [H*d, D]
  WeightView k;                         // [M*d, D]
  WeightView v;                         // [M*d, D]
  WeightView output;                    // [D, H*d]
  View<const float, 1> ffn_norm;        // [D]
  WeightView gate;                      // [F, D]
  WeightView up;                        // [F, D]
  WeightView down;                      // [D, F]
};

struct ModelWeights {
  WeightView embedding;  // [V, D]
  std::vector<LayerWeights> layers;
  View<const float, 1> final_norm;    // [D]
  WeightView logits;                  // [V, D]; the embedding when tied
  View<const float, 1> rope_factors;  // [d/2] divisors of the frequencies, or empty
  size_t bytes = 0;                   // of all tensors above, each counted once
};

/// Finds every tensor and checks its shape and type; throws Error naming the tensor and both
/// shapes. The views live as long as `file`.
ModelWeights read_weights(const Gguf& file, const ModelConfig& config);

}  // namespace freekv
