#include "policies/principal.hpp"

#include <Eigen/Eigenvalues>

#include "core/check.hpp"

namespace freekv {

void principal_directions(View<const double, 2> products, View<float, 2> out) {
  const int64_t n = products.shape(0);
  check_internal(products.shape(1) == n && out.shape(1) == n && out.shape(0) <= n,
                 "{} directions of {} of a matrix of {} x {}", out.shape(0), out.shape(1), n,
                 products.shape(1));
  const Eigen::Map<const Eigen::MatrixXd> matrix(products.data(), n, n);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(matrix);
  if (solver.info() != Eigen::Success) {
    fail(ErrorCode::kInternal, "no principal directions of a matrix of {} x {}: not finite?", n, n);
  }
  // Ascending there.
  for (int64_t i = 0; i < out.shape(0); ++i) {
    for (int64_t e = 0; e < n; ++e) {
      out[i][e] = static_cast<float>(solver.eigenvectors()(e, n - 1 - i));
    }
  }
}

}  // namespace freekv
