// The suite of engine_invariants.hpp on the host's backends, for the policies of the generated
// table: a new one is tested here without being named.
#include "engine_invariants.hpp"

#include <algorithm>

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
  const auto tokens = random_tokens(200, 12);
  EngineOptions options;
  options.model = model.path();
  options.kv_type = "f32";
  options.threads = 2;
  const auto with = [&](const char* backend, const char* activations) {
    options.backend = backend;
    options.activations = activations;
    return run(options, tokens, 170);
  };
  const Logits exact = with("cpu", "f32");
  const Logits rounded = with("cpu", "auto");
  EXPECT_LT(relative_error(exact, with("reference", "f32")), 1e-5);
  // Sums that differ in their last bit may round to the next of the 8-bit numbers.
  EXPECT_LT(relative_error(rounded, with("reference", "auto")), 2e-2);
  EXPECT_LT(relative_error(rounded, exact), 0.1);
  EXPECT_GT(relative_error(rounded, exact), 1e-5);
}

}  // namespace
}  // namespace freekv
