// What must hold for every policy on every backend at the level of logits. The suite is here; which
// policies and backends run it say the test programs (INSTANTIATE_TEST_SUITE_P).
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "freekv/engine.hpp"
#include "tiny_model.hpp"

namespace freekv {

using Logits = std::vector<std::vector<float>>;

std::vector<int32_t> random_tokens(size_t count, uint32_t seed);

/// Logits after the prompt and after each further token, fed as they stand.
Logits run(Engine& engine, Sequence& sequence, std::span<const int32_t> tokens, size_t prompt,
           const Sequence* like = nullptr);
Logits run(const EngineOptions& options, std::span<const int32_t> tokens, size_t prompt);

/// |got - want| / |want|
double relative_error(const std::vector<float>& got, const std::vector<float>& want);
/// The largest of all steps.
double relative_error(const Logits& got, const Logits& want);

struct Case {
  std::string policy;
  std::string backend;
};

/// A name that GoogleTest takes.
std::string case_name(const testing::TestParamInfo<Case>& info);

class EveryPolicy : public testing::TestWithParam<Case> {
 protected:
  EngineOptions options() const {
    EngineOptions result = options_for(GetParam().backend, model_);
    result.policy = GetParam().policy;
    return result;
  }

  /// How many of a prompt's last tokens the policy is shown the queries of.
  int64_t observed_tokens() const;
  bool on_device() const { return GetParam().backend == "cuda"; }
  /// Holds logits after a prompt that took over part of another to those of one that was computed.
  void expect_as_computed(const Logits& taken, const Logits& computed) const;

  TemporaryModel model_{tiny_model_records(shape_for(GetParam().backend))};
};

}  // namespace freekv
