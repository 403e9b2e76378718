// Principal directions of vectors, and vectors along them.
#pragma once

#include "core/view.hpp"

namespace freekv {

// All take memory of their own; the same input gives the same bits.

/// products [n, n] += sum of x x^T over the rows of x [t, n]: summed in f32, so that rows should be
/// some hundred at most, and added in f64.
void add_products(View<const float, 2> x, View<double, 2> products);

/// For a symmetric matrix [n, n] = sum of x x^T, writes the out.shape(0) <= n orthonormal
/// directions [r, n] along which the x are largest, the largest first.
void principal_directions(View<const double, 2> products, View<float, 2> out);

/// out [t, r] = x [t, n] . directions [r, n]
void project(View<const float, 2> x, View<const float, 2> directions, View<float, 2> out);

}  // namespace freekv
