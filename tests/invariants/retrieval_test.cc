// Retrieval equals the algorithm written down a second time, page for page and bit for bit.
#include <gtest/gtest.h>

#include <algorithm>

#include "driver.hpp"
#include "kvcache/selection.hpp"
#include "naive.hpp"
#include "specifications.hpp"

namespace freekv::invariants {
namespace {

struct Lengths {
  int64_t prompt;
  int steps;
};

// Prompts that end below, at and above the budget of 112, on and off page bounds.
constexpr Lengths kLengths[] = {{0, 160},  {5, 150},  {111, 40}, {112, 40},
                                {113, 40}, {300, 60}, {320, 40}};

// Mean values are rounded to the dtype of the KV, and sums are in another order.
void expect_near(const std::vector<std::vector<float>>& got,
                 const std::vector<std::vector<float>>& expected, double bound) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_EQ(got[i].size(), expected[i].size());
    for (size_t e = 0; e < got[i].size(); ++e) ASSERT_NEAR(got[i][e], expected[i][e], bound);
  }
}

void expect_naive(Scenario setup, const std::string& specification, const NaiveOptions& options,
                  bool counters) {
  setup.attend_in_prefill = false;
  for (const Lengths& lengths : kLengths) {
    SCOPED_TRACE(testing::Message() << specification << ", prompt " << lengths.prompt);
    Driver driver(setup, specification);
    const auto sequence = driver.make_sequence(11);
    driver.prefill(*sequence, lengths.prompt);
    sequence->outputs.clear();
    driver.decode(*sequence, lengths.steps);
    const NaiveResult naive = run_naive(setup, options, 11, lengths.prompt, lengths.steps);
    if (options.values) {
      expect_near(sequence->outputs, naive.outputs, setup.dtype == DType::kF32 ? 1e-5 : 1e-3);
    } else {
      ASSERT_EQ(sequence->outputs, naive.outputs);
    }
    if (!counters) continue;
    const RetrievalStats& got = sequence->cache.stats();
    EXPECT_EQ(got.selections, naive.stats.selections);
    EXPECT_EQ(got.pages_selected, naive.stats.pages_selected);
    EXPECT_EQ(got.hits, naive.stats.hits);
    EXPECT_EQ(got.misses_before, naive.stats.misses_before);
    EXPECT_EQ(got.misses_after, naive.stats.misses_after);
    EXPECT_EQ(got.bytes_recalled, naive.stats.bytes_recalled);
    EXPECT_EQ(got.corrections_tested, naive.stats.corrections_tested);
    EXPECT_EQ(got.drifted_by_layer, naive.stats.drifted_by_layer);
    EXPECT_EQ(got.lost_mass_count, naive.stats.lost_mass_count);
    EXPECT_NEAR(got.lost_mass_sum, naive.stats.lost_mass_sum,
                1e-5 * static_cast<double>(1 + got.lost_mass_count));
  }
}

Pooling default_pooling(const PolicyDescriptor& policy) {
  for (const PolicyKey& key : policy.keys) {
    if (key.name == "pooling") return parse_pooling(key.default_value);
  }
  return Pooling::kMeanSoftmax;
}

// Policies that correct by cosine must, above 1, retrieve with the current query and wait.
TEST(TauAboveOne, EqualsBlockingRetrieval) {
  int policies = 0;
  for (const PolicyDescriptor& policy : policy_table()) {
    if (!has_key(policy, "tau")) continue;
    ++policies;
    NaiveOptions options;
    options.dense_layers = 1;
    options.pooling = default_pooling(policy);
    expect_naive({}, policy.name + ":tau=1.0001,dense_layers=1", options, false);
    expect_naive({}, policy.name + ":tau=2,dense_layers=1,resident=2.5", options, false);
  }
  EXPECT_GE(policies, 1);
}

TEST(FreeKv, EqualsTheAlgorithmAndCountsWhatItDoes) {
  for (const double tau : {-2.0, 0.7, 0.8, 0.9, 2.0}) {
    NaiveOptions options;
    options.tau = tau;
    options.dense_layers = 1;
    expect_naive({}, "freekv:dense_layers=1,tau=" + std::to_string(tau), options, true);
  }
}

TEST(FreeKv, EqualsTheAlgorithmForEverySketchPoolingAndMechanism) {
  const struct {
    const char* name;
    Pooling pooling;
  } poolings[] = {{"mean_softmax", Pooling::kMeanSoftmax},
                  {"max_softmax", Pooling::kMaxSoftmax},
                  {"mean_score", Pooling::kMeanScore},
                  {"max_score", Pooling::kMaxScore}};
  for (const auto& pooling : poolings) {
    for (const bool cuboid : {false, true}) {
      NaiveOptions options;
      options.tau = 0.8;
      options.pooling = pooling.pooling;
      options.cuboid = cuboid;
      expect_naive({},
                   std::string("freekv:dense_layers=0,recall=streamed,pooling=") + pooling.name +
                       ",sketch=" + (cuboid ? "cuboid" : "minmax"),
                   options, true);
    }
  }
}

TEST(FreeKv, SelectsTheSamePagesWhateverStaysResident) {
  NaiveOptions options;
  options.tau = 0.8;
  options.dense_layers = 1;
  for (const char* resident : {"1.3", "2", "8", "1000"}) {
    expect_naive({}, std::string("freekv:dense_layers=1,resident=") + resident, options, false);
  }
}

TEST(FreeKv, EqualsTheAlgorithmForOtherPagesGroupsAndBudgets) {
  NaiveOptions options;
  options.tau = 0.8;
  options.dense_layers = 1;
  Scenario setup;
  setup.kv_heads = 3;
  setup.group = 5;
  setup.dim = 8;
  expect_naive(setup, "freekv:dense_layers=1", options, true);
  setup = {};
  setup.page = 32;
  setup.tokens = {96, 0, 32};  // no sink, k = 2
  expect_naive(setup, "freekv:dense_layers=1", options, true);
  setup.tokens = {110, 1, 3};  // rounded up to whole pages; the budget is no whole number of them
  expect_naive(setup, "freekv:dense_layers=1", options, true);
  setup.page = 64;
  setup.tokens = {192, 64, 64};
  setup.dtype = DType::kBF16;
  expect_naive(setup, "freekv:dense_layers=1", options, true);
}

TEST(Quest, SelectsWithTheCurrentQuery) {
  NaiveOptions options;
  options.pooling = Pooling::kMaxScore;
  options.recalls = false;
  options.dense_layers = 2;
  expect_naive({}, "quest", options, false);
  options.dense_layers = 0;
  options.cuboid = true;
  expect_naive({}, "quest:dense_layers=0,sketch=cuboid", options, false);
}

// What tau above 1 is to correction by cosine, epsilon 0 is to correction by mass.
TEST(EpsilonZero, EqualsBlockingRetrieval) {
  int policies = 0;
  for (const PolicyDescriptor& policy : policy_table()) {
    if (!has_key(policy, "epsilon")) continue;
    ++policies;
    NaiveOptions options;
    options.mass = NaiveMass::kKey2;
    expect_naive({}, policy.name + ":epsilon=0,dense_layers=0", options, false);
  }
  EXPECT_GE(policies, 1);
}

TEST(FreeKvCoverage, EqualsTheAlgorithmAndCountsWhatItDoes) {
  NaiveOptions options;
  options.mass = NaiveMass::kKey2;
  for (const double epsilon : {0.0, 0.05, 0.3, 1.0}) {
    options.epsilon = epsilon;
    expect_naive({}, "freekv-coverage:epsilon=" + std::to_string(epsilon), options, true);
  }
  options.epsilon = 0.1;
  for (const double resident : {1.3, 4.0}) {
    options.resident = resident;
    expect_naive({}, "freekv-coverage:epsilon=0.1,resident=" + std::to_string(resident), options,
                 true);
  }
}

TEST(FreeKvCoverage, EqualsTheAlgorithmForOtherPagesAndGroups) {
  NaiveOptions options;
  options.mass = NaiveMass::kKey2;
  options.epsilon = 0.07;
  options.dense_layers = 1;
  Scenario setup;
  setup.kv_heads = 3;
  setup.group = 5;
  setup.dim = 8;
  expect_naive(setup, "freekv-coverage:dense_layers=1,recall=streamed", options, true);
  setup = {};
  setup.page = 32;
  setup.tokens = {110, 1, 3};
  setup.dtype = DType::kBF16;
  expect_naive(setup, "freekv-coverage:dense_layers=1", options, true);
}

TEST(FreeKvCoverage, LetsPagesThatItDoesNotAttendToCountWithTheirMeanValues) {
  NaiveOptions options;
  options.mass = NaiveMass::kKey2;
  options.values = true;
  for (const DType dtype : {DType::kF32, DType::kF16}) {
    Scenario setup;
    setup.dtype = dtype;
    for (const double epsilon : {0.0, 0.1, 1.0}) {
      options.epsilon = epsilon;
      expect_naive(setup, "freekv-coverage:sketch=key2+values,epsilon=" + std::to_string(epsilon),
                   options, true);
    }
  }
  options.dense_layers = 1;
  Scenario setup;
  setup.dtype = DType::kF32;
  setup.kv_heads = 3;
  setup.group = 5;
  setup.dim = 8;
  expect_naive(setup, "freekv-coverage:sketch=key2+values,dense_layers=1,epsilon=1", options, true);
}

// Where all tokens of a page are alike, sketches are exact, and so is what they stand for: whatever
// is attended to, the result is dense attention's.
TEST(FreeKvCoverage, WithValuesIsDenseWherePagesAreUniform) {
  Scenario setup;
  setup.dtype = DType::kF32;
  setup.attend_in_prefill = false;
  double without = 0;
  for (const char* sketch : {"key2+values", "key2"}) {
    Driver driver(setup, std::string("freekv-coverage:epsilon=1,sketch=") + sketch);
    Driver dense(setup, "full");
    const auto sequence = driver.make_sequence(11), other = dense.make_sequence(11);
    for (TestSequence* each : {sequence.get(), other.get()}) {
      each->inputs = Inputs(11, setup.page);
    }
    driver.prefill(*sequence, 400);
    dense.prefill(*other, 400);
    double worst = 0;
    for (int i = 0; i < 40; ++i) {
      TestSequence *one = sequence.get(), *two = other.get();
      driver.step(std::span(&one, 1));
      dense.step(std::span(&two, 1));
      for (size_t e = 0; e < one->output.size(); ++e) {
        worst = std::max(worst, static_cast<double>(std::abs(one->output[e] - two->output[e])));
      }
    }
    if (std::string(sketch) == "key2") {
      without = worst;
    } else {
      EXPECT_LT(worst, 2e-3);
    }
  }
  EXPECT_GT(without, 0.2) << "nothing of weight was left out";
}

TEST(Oracle, SelectsByTheMassOfTheKeys) {
  NaiveOptions options;
  options.mass = NaiveMass::kExact;
  options.recalls = false;
  expect_naive({}, "oracle", options, false);
  options.dense_layers = 1;
  Scenario setup;
  setup.page = 32;
  setup.tokens = {96, 0, 32};
  setup.dtype = DType::kF32;
  expect_naive(setup, "oracle:dense_layers=1", options, false);
}

TEST(ArkVale, SelectsWithTheCurrentQueryAndWaits) {
  NaiveOptions options;
  options.cuboid = true;
  options.pooling = Pooling::kMeanScore;
  options.dense_layers = 2;
  expect_naive({}, "arkvale", options, false);
  options.dense_layers = 0;
  expect_naive({}, "arkvale:dense_layers=0,resident=1.5", options, false);
}

TEST(Streaming, AttendsToSinkAndTheRestOfTheBudgetAsWindow) {
  NaiveOptions options;
  options.selects = false;
  expect_naive({}, "streaming", options, false);
  Scenario unaligned;
  unaligned.tokens = {125, 10, 17};
  expect_naive(unaligned, "streaming", options, false);
}

}  // namespace
}  // namespace freekv::invariants
