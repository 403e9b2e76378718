// The tensors of a model: matrices borrowed from its mapped files in the form they have there, and
// its few vectors as f32.
#pragma once

#include <vector>

#include "backends/layer_weights.hpp"
#include "backends/tensors.hpp"
#include "core/view.hpp"
#include "model/config.hpp"
#include "model/tensor_source.hpp"

namespace freekv {

/// Movable, not copyable: the views of vectors are into `vectors`.
struct ModelWeights {
  ModelWeights() = default;
  ModelWeights(ModelWeights&&) = default;
  ModelWeights& operator=(ModelWeights&&) = default;

  WeightView embedding;  // [V, D]
  std::vector<LayerWeights> layers;
  View<const float, 1> final_norm;    // [D]
  WeightView logits;                  // [V, D]; the embedding when tied
  View<const float, 1> rope_factors;  // [d/2] divisors of the frequencies, or empty
  size_t bytes = 0;                   // of all tensors in the files, each counted once
  std::vector<std::vector<float>> vectors;

  bool tied() const { return logits.data == embedding.data; }
  /// Every matrix once.
  std::vector<WeightView> matrices() const;
};

/// Finds every tensor and checks its shape and type; throws Error naming the tensor and both
/// shapes, or a tensor of a layer that this model has no place for. The views live as long as the
/// files of `source`.
ModelWeights read_weights(const TensorSource& source, const ModelConfig& config);

}  // namespace freekv
