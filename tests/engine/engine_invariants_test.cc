// The suite of engine_invariants.hpp on the host's backends, for the policies of the generated
// table: a new one is tested here without being named.
#include "engine_invariants.hpp"

#include <algorithm>

#include "backends/op_test.hpp"
#include "policies/policy.hpp"
#include "support/base_specification.hpp"

namespace freekv {
namespace {

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const PolicyDescriptor& policy : policy_table()) {
    for (const char* backend : {"reference", "cpu"}) {
      cases.push_back({testing_support::base_specification(policy), backend});
    }
  }
  // Changes what attention gives, which no default does.
  for (const char* backend : {"reference", "cpu"}) {
    cases.push_back({"freekv-coverage:sketch=key2+values", backend});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Table, EveryPolicy, testing::ValuesIn(all_cases()), case_name);

// The backends hold each other to account on the whole path, not only operation by operation.
TEST(Engine, SimdAgreesWithTheReference) {
  const TemporaryModel model;
  const auto tokens = random_tokens(200, 12);
  for (const char* kv_type : {"f32", "f16", "bf16"}) {
    EngineOptions options;
    options.model = model.path();
    options.kv_type = kv_type;
    options.chunk = 64;
    options.threads = 2;
    const Logits simd = run(options, tokens, 170);
    options.backend = "reference";
    const Logits scalar = run(options, tokens, 170);
    // KV is rounded after sums of different order: half types may round to the next value.
    const double bound = std::string(kv_type) == "f32" ? 1e-5 : 2e-2;
    for (size_t i = 0; i < simd.size(); ++i) {
      EXPECT_LT(relative_error(simd[i], scalar[i]), bound) << kv_type << " step " << i;
    }
  }
}

TEST(Engine, QuantisedWeightsAgreeWithTheReference) {
  const TemporaryModel model(tiny_model_records({.weights = DType::kQ4_0}));
  EngineOptions options;
  options.model = model.path();
  options.kv_type = "f32";
  options.threads = 2;
  const auto with = [&](uint32_t seed, const char* backend, const char* activations) {
    options.backend = backend;
    options.activations = activations;
    return run(options, random_tokens(200, seed), 170);
  };
  constexpr uint32_t kSeeds[] = {12, 14, 15};
  std::vector<Logits> references, exact_references;
  for (const uint32_t seed : kSeeds) {
    references.push_back(with(seed, "reference", "auto"));
    exact_references.push_back(with(seed, "reference", "f32"));
  }
  for_each_simd_target([&] {
    size_t steps = 0, same = 0;
    for (size_t i = 0; i < std::size(kSeeds); ++i) {
      const Logits exact = with(kSeeds[i], "cpu", "f32"), rounded = with(kSeeds[i], "cpu", "auto");
      EXPECT_LT(relative_error(exact, exact_references[i]), 1e-5);
      EXPECT_LT(relative_error(rounded, exact), 0.1);
      EXPECT_GT(relative_error(rounded, exact), 1e-5);
      // A sum that differs in its last bit may round to the next of the 8-bit numbers. From there
      // on the two differ by as much as rounding changes; what comes before is the same.
      EXPECT_LT(relative_error(rounded, references[i]), 0.1);
      for (size_t step = 0; step < rounded.size(); ++step, ++steps) {
        if (relative_error(rounded[step], references[i][step]) < 1e-5) ++same;
      }
    }
    EXPECT_GE(same, steps / 2);  // 61 to 68 of 93 with AVX-512 and below
  });
}

}  // namespace
}  // namespace freekv
