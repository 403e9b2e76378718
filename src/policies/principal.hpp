// Principal directions of vectors, from the matrix of their products.
#pragma once

#include <cstdint>
#include <span>

#include "core/view.hpp"

namespace freekv {

/// For a symmetric matrix [n, n] = sum of x x^T, writes the out.shape(0) <= n orthonormal
/// directions [r, n] along which the x are largest, the largest first. Destroys nothing, takes
/// memory of its own; the same input gives the same bits.
void principal_directions(View<const double, 2> products, View<float, 2> out);

}  // namespace freekv
