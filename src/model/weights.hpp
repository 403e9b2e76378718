// The tensors of a model: matrices borrowed from its mapped files in the form they have there, and
// its few vectors as f32.
#pragma once

#include <vector>

#include "backends/tensors.hpp"
#include "core/view.hpp"
#include "model/config.hpp"
#include "model/tensor_source.hpp"

namespace freekv {

/// Vectors that an architecture does not have are empty.
struct LayerWeights {
  View<const float, 1> attention_norm;  // [D]
  WeightView q;                         // [H*d, D]
  WeightView k;                         // [M*d, D]
  WeightView v;                         // [M*d, D]
  WeightView output;                    // [D, H*d]
  View<const float, 1> q_bias;          // [H*d]
  View<const float, 1> k_bias;          // [M*d]
  View<const float, 1> v_bias;          // [M*d]
  View<const float, 1> output_bias;     // [D]
  View<const float, 1> q_norm;          // [d], of each head
  View<const float, 1> k_norm;          // [d]
  View<const float, 1> ffn_norm;        // [D]
  WeightView gate;                      // [F, D]
  WeightView up;                        // [F, D]
  WeightView down;                      // [D, F]
};

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
