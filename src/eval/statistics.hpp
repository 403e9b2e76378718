// Means and their 95 % intervals.
#pragma once

#include <span>
#include <string>

namespace freekv::eval {

struct Interval {
  double low = 0;
  double high = 0;
};

double mean(std::span<const double> values);
/// Wilson's interval for `successes` of `trials` >= 1 (Wilson, 1927), 95 %.
Interval wilson(double successes, double trials);
/// Percentile bootstrap of the mean, 95 %: 2,000 resamples with a fixed seed, so that the same
/// values give the same interval everywhere.
Interval bootstrap(std::span<const double> values);

struct Estimate {
  double mean = 0;
  Interval interval;
  std::string method;  // "Wilson" where every value is 0 or 1, "bootstrap" elsewhere
};
/// At least one value.
Estimate estimate(std::span<const double> values);

}  // namespace freekv::eval
