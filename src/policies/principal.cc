#include "policies/principal.hpp"

#include <Eigen/Eigenvalues>
#include <cstdint>

#include "core/check.hpp"

namespace freekv {
namespace {

template <typename T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <typename T>
Eigen::Map<const Matrix<T>> map(View<const T, 2> view) {
  return {view.data(), view.shape(0), view.shape(1)};
}
template <typename T>
Eigen::Map<Matrix<T>> map(View<T, 2> view) {
  return {view.data(), view.shape(0), view.shape(1)};
}

}  // namespace

void add_products(View<const float, 2> x, View<double, 2> products) {
  const int64_t n = x.shape(1);
  check_internal(products.shape(0) == n && products.shape(1) == n,
                 "products of {} channels in a matrix of {} x {}", n, products.shape(0),
                 products.shape(1));
  map(products) += (map(x).transpose() * map(x)).cast<double>();
}

void principal_directions(View<const double, 2> products, View<float, 2> out) {
  const int64_t n = products.shape(0);
  check_internal(products.shape(1) == n && out.shape(1) == n && out.shape(0) <= n,
                 "{} directions of {} of a matrix of {} x {}", out.shape(0), out.shape(1), n,
                 products.shape(1));
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(map(products));
  if (solver.info() != Eigen::Success) {
    fail(ErrorCode::kInternal, "no principal directions of a matrix of {} x {}: not finite?", n, n);
  }
  // Ascending there, a direction in each column.
  const auto largest = solver.eigenvectors().rowwise().reverse().leftCols(out.shape(0));
  map(out) = largest.transpose().cast<float>();
}

void project(View<const float, 2> x, View<const float, 2> directions, View<float, 2> out) {
  check_internal(x.shape(1) == directions.shape(1) && out.shape(0) == x.shape(0) &&
                     out.shape(1) == directions.shape(0),
                 "{} x {} along {} directions of {} in {} x {}", x.shape(0), x.shape(1),
                 directions.shape(0), directions.shape(1), out.shape(0), out.shape(1));
  map(out).noalias() = map(x) * map(directions).transpose();
}

}  // namespace freekv
