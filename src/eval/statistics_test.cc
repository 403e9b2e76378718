#include "eval/statistics.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "freekv/error.hpp"

namespace freekv::eval {
namespace {

TEST(Wilson, KnownValues) {
  // From the closed form with z = 1.959964, as R's prop.test(correct = FALSE) prints them.
  struct Case {
    double successes, trials, low, high;
  };
  for (const Case& c :
       {Case{5, 10, 0.2366, 0.7634}, Case{0, 10, 0, 0.2775}, Case{10, 10, 0.7225, 1},
        Case{81, 263, 0.2553, 0.3662}, Case{15, 148, 0.0624, 0.1605}, Case{1, 1, 0.2065, 1}}) {
    const Interval interval = wilson(c.successes, c.trials);
    EXPECT_NEAR(interval.low, c.low, 1e-4) << c.successes << " of " << c.trials;
    EXPECT_NEAR(interval.high, c.high, 1e-4) << c.successes << " of " << c.trials;
  }
  EXPECT_THROW(wilson(2, 1), Error);
  EXPECT_THROW(wilson(0, 0), Error);
}

TEST(Bootstrap, IsNearTheNormalIntervalAndRepeats) {
  std::vector<double> values;
  for (int i = 0; i < 400; ++i) values.push_back((i % 10) / 10.0);
  // Mean 0.45, standard deviation sqrt(0.0825), standard error 0.01436.
  const Interval interval = bootstrap(values);
  EXPECT_NEAR(interval.low, 0.45 - 1.96 * 0.01436, 0.003);
  EXPECT_NEAR(interval.high, 0.45 + 1.96 * 0.01436, 0.003);
  EXPECT_EQ(interval.low, bootstrap(values).low);
  EXPECT_EQ(bootstrap(std::vector<double>(5, 0.5)).low, 0.5);
  EXPECT_EQ(bootstrap(std::vector<double>(5, 0.5)).high, 0.5);
}

TEST(Estimate, ChoosesTheIntervalByTheValues) {
  const Estimate exact = estimate(std::vector<double>{1, 0, 1, 1});
  EXPECT_EQ(exact.method, "Wilson");
  EXPECT_EQ(exact.mean, 0.75);
  EXPECT_EQ(exact.interval.low, wilson(3, 4).low);
  const Estimate shares = estimate(std::vector<double>{1, 0.5, 0.25, 0.25});
  EXPECT_EQ(shares.method, "bootstrap");
  EXPECT_EQ(shares.mean, 0.5);
  EXPECT_LE(shares.interval.low, 0.5);
  EXPECT_GE(shares.interval.high, 0.5);
}

}  // namespace
}  // namespace freekv::eval
