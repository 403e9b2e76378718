// The tensors of one layer, as the model's files have them.
#pragma once

#include "backends/tensors.hpp"
#include "core/view.hpp"

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

}  // namespace freekv
