#include "eval/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/check.hpp"
#include "eval/random.hpp"

namespace freekv::eval {

double mean(std::span<const double> values) {
  return values.empty() ? 0
                        : std::accumulate(values.begin(), values.end(), 0.0) /
                              static_cast<double>(values.size());
}

Interval wilson(double successes, double trials) {
  check_argument(trials >= 1 && successes >= 0 && successes <= trials,
                 "an interval of {} successes of {} trials", successes, trials);
  constexpr double z = 1.959963984540054;  // the normal distribution's 97.5 % point
  const double p = successes / trials;
  const double scale = 1 / (1 + z * z / trials);
  const double centre = scale * (p + z * z / (2 * trials));
  const double half = scale * z * std::sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials));
  return {std::max(0.0, centre - half), std::min(1.0, centre + half)};
}

Interval bootstrap(std::span<const double> values) {
  check_argument(!values.empty(), "an interval of {} values", values.size());
  constexpr size_t kResamples = 2000;
  Random random("bootstrap");
  std::vector<double> means(kResamples);
  for (double& value : means) {
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += random.choice(values);
    value = sum / static_cast<double>(values.size());
  }
  std::sort(means.begin(), means.end());
  return {means[kResamples / 40], means[kResamples - 1 - kResamples / 40]};
}

Estimate estimate(std::span<const double> values) {
  const bool binary =
      std::all_of(values.begin(), values.end(), [](double v) { return v == 0 || v == 1; });
  const double average = mean(values);
  const auto count = static_cast<double>(values.size());
  if (binary) {
    const double successes = std::accumulate(values.begin(), values.end(), 0.0);
    return {average, wilson(successes, count), "Wilson"};
  }
  return {average, bootstrap(values), "bootstrap"};
}

}  // namespace freekv::eval
