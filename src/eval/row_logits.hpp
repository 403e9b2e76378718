// What a comparison asks of rows of logits, vectorised: a GPU makes a small model's step in less
// time than a core needs for three exponentials of each logit.
#pragma once

#include <cstddef>
#include <span>

namespace freekv::eval {

/// The first of the largest logits; 0 where one is NaN. There is at least one logit.
size_t likeliest(std::span<const float> logits);

/// KL(p || q) in nats of the softmaxes of two rows of logits, in double precision; the last digits
/// depend on the width of the machine's vectors. Throws Error(kInternal) when a softmax is not
/// finite.
double kl_divergence(std::span<const float> p, std::span<const float> q);

}  // namespace freekv::eval
