// The engine on a GPU: the invariants that hold on every backend, logits and texts of the host's
// backend, and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/thread_pool.hpp"
#include "engine_invariants.hpp"
#include "model/convert.hpp"
#include "support/scratch_folder.hpp"

namespace freekv {
namespace {

const char* const kPolicies[] = {"full",
                                 "quest",
                                 "quest:dense_layers=0,pooling=mean_softmax",
                                 "freekv",
                                 "freekv:tau=-1",
                                 "freekv:tau=2",
                                 "freekv:dense_layers=1,resident=2,pooling=max_score",
                                 "quest:sketch=key2,dense_layers=0",
                                 "freekv:sketch=key2",
                                 "freekv:sketch=key2,tau=2",
                                 "freekv-coverage",
                                 "freekv-coverage:epsilon=0",
                                 "freekv-coverage:epsilon=0.3,resident=2,dense_layers=1"};

std::vector<Case> device_cases() {
  std::vector<Case> cases;
  for (const char* policy : kPolicies) cases.push_back({policy, "cuda"});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Device, EveryPolicy, testing::ValuesIn(device_cases()), case_name);

/// Shapes of heads and pages.
struct Variant {
  const char* name;
  int query_heads;
  int kv_heads;
  int head_dim;
  int page;
  const char* kv_type;
};

// What rounding to bf16 costs a model as sharp as the tiny one is measured on the host: the logits
// of KV in bf16 against those in f32. The device's prefill rounds activations in four more places
// of a layer.
constexpr double kMoreRoundings = 4;

bool uses_key2(std::string_view policy) {
  return policy.find("key2") != policy.npos || policy.find("coverage") != policy.npos;
}

TinyModelShape shape_of(const Variant& v) {
  TinyModelShape shape;
  shape.query_heads = v.query_heads;
  shape.kv_heads = v.kv_heads;
  shape.head_dim = v.head_dim;
  shape.weights = DType::kBF16;
  return shape;
}

class DeviceAgainstHost : public testing::TestWithParam<Variant> {
 protected:
  DeviceAgainstHost() {
    const Variant& v = GetParam();
    options.page = v.page;
    options.kv_type = v.kv_type;
    // At least 3 selected pages.
    options.budget = 6 * v.page;
    options.window = v.page;
  }

  /// Of logits.
  double rounding_bound() const {
    const auto dense_host = [&](const char* kv_type) {
      EngineOptions dense = options;
      dense.policy = "full";
      dense.backend = "cpu";
      dense.kv_type = kv_type;
      return run(dense, tokens, 400);
    };
    const Logits exact = dense_host("f32"), rounded = dense_host("bf16");
    double bound = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      bound = std::max(bound, kMoreRoundings * relative_error(rounded[i], exact[i]));
    }
    return bound;
  }

  const TemporaryModel model{tiny_model_records(shape_of(GetParam()))};
  EngineOptions options = tiny_options(model);
  const std::vector<int32_t> tokens = random_tokens(420, 21);
};

// Both compute with the same bf16 weights and KV type; activations between the products are bf16
// in the device's prefill.
TEST_P(DeviceAgainstHost, LogitsAgree) {
  const Variant& v = GetParam();
  const double bound = rounding_bound();
  for (const char* policy : {"full", "quest:dense_layers=0", "freekv", "freekv:tau=2",
                             "quest:dense_layers=0,sketch=key2", "freekv:sketch=key2",
                             "freekv-coverage", "freekv-coverage:epsilon=0"}) {
    options.policy = policy;
    options.backend = "cpu";
    const Logits host = run(options, tokens, 400);
    // The levels of key2 jump where a box's edges move, so that on random keys rounding KV alone
    // has the host take other pages in most steps: half of the most that this changes is the bound.
    double policy_bound = bound;
    if (uses_key2(policy)) {
      EngineOptions unrounded = options;
      unrounded.kv_type = "f32";
      const Logits other = run(unrounded, tokens, 400);
      for (size_t i = 0; i < host.size(); ++i) {
        policy_bound = std::max(policy_bound, relative_error(other[i], host[i]) / 2);
      }
    }
    options.backend = "cuda";
    const Logits device = run(options, tokens, 400);
    std::vector<double> errors;
    for (size_t i = 0; i < host.size(); ++i) errors.push_back(relative_error(device[i], host[i]));
    EXPECT_LT(errors[0], bound) << policy << ", after the prompt";
    std::sort(errors.begin(), errors.end());
    // Selections part where two pages score the same to within rounding, and sharp attention then
    // changes much: retrieval is held to the bound in most steps, dense attention in all.
    const double error = options.policy == "full" ? errors.back() : errors[errors.size() / 2];
    EXPECT_LT(error, policy_bound) << policy;
    std::printf("%s %s: relative error %.1e, bound %.1e, at most %.1e\n", v.name, policy, error,
                policy_bound, errors.back());
  }
}

// KV that the device has computed, in a sequence of the host.
TEST_P(DeviceAgainstHost, TheHostGoesOnFromWhatTheDeviceHasRead) {
  options.policy = "full";
  options.backend = "cuda";
  Engine device(options);
  options.backend = "cpu";
  Engine host(options);
  const auto source = device.new_sequence(), own = host.new_sequence(), taken = host.new_sequence();
  run(device, *source, tokens, 400);  // its decoded tokens are not taken
  const Logits expected = run(host, *own, tokens, 400);
  const Logits got = run(host, *taken, tokens, 400, source.get());
  EXPECT_EQ(taken->kept_tokens(), 399);
  const double bound = rounding_bound();
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_LT(relative_error(got[i], expected[i]), bound) << "step " << i;
  }
}

// Where it does not depend on rounding how many heads drift, both count the same.
TEST(DeviceEngine, CountsWhatTheHostCounts) {
  const TemporaryModel model(tiny_model_records(shape_for("cuda")));
  const auto tokens = random_tokens(330, 22);
  for (const char* policy :
       {"full", "quest", "freekv:tau=-2", "freekv:tau=2", "freekv:tau=2,dense_layers=1",
        "quest:sketch=key2", "freekv:tau=2,sketch=key2", "freekv-coverage:epsilon=1"}) {
    RetrievalStats stats[2];
    for (const bool on_device : {false, true}) {
      EngineOptions options = options_for("cuda", model);
      options.policy = policy;
      if (!on_device) options.backend = "cpu";
      Engine engine(options);
      const auto sequence = engine.new_sequence();
      run(engine, *sequence, tokens, 300);
      stats[on_device] = sequence->stats();
    }
    const RetrievalStats &host = stats[0], &device = stats[1];
    EXPECT_EQ(device.selections, host.selections) << policy;
    EXPECT_EQ(device.pages_selected, host.pages_selected) << policy;
    EXPECT_EQ(device.corrections_tested, host.corrections_tested) << policy;
    EXPECT_EQ(device.drifted_by_layer, host.drifted_by_layer) << policy;
    EXPECT_EQ(device.bytes_offloaded, host.bytes_offloaded) << policy;
    EXPECT_EQ(device.lost_mass_count, host.lost_mass_count) << policy;
    EXPECT_NEAR(device.lost_mass(), host.lost_mass(), 0.02) << policy;
    EXPECT_EQ(device.hits + device.misses_before + device.misses_after, device.pages_selected);
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, DeviceAgainstHost,
                         testing::Values(Variant{"g3", 6, 2, 64, 16, "bf16"},
                                         Variant{"g1", 2, 2, 80, 16, "f16"},
                                         Variant{"g7", 7, 1, 96, 32, "bf16"},
                                         Variant{"g4", 8, 2, 128, 32, "f16"},
                                         Variant{"g16", 16, 1, 64, 32, "bf16"}),
                         [](const auto& info) { return std::string(info.param.name); });

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The bundled model over its document, with bf16 weights on both sides, greedily.
TEST(DeviceEngine, AnswersTheDemoQuestionsAsTheHostDoes) {
  const std::string document = read("models/demo_document.txt");
  const auto questions = nlohmann::json::parse(read("models/demo_questions.json"), nullptr, false);
  ASSERT_FALSE(document.empty() || !questions.is_array()) << "run from the repository's root";
  const testing_support::ScratchFolder folder;
  const std::string model = folder.file("demo_bf16.gguf");
  {
    ThreadPool pool(8);
    convert_model(pool, "models/freekv-demo.gguf", model, DType::kBF16, nullptr);
  }
  EngineOptions options;
  options.model = model;
  options.kv_type = "bf16";
  options.budget = 1024;
  options.context = 32768;
  size_t same = 0, asked = 0;
  for (const char* policy : {"full", "freekv", "freekv:sketch=key2", "freekv-coverage"}) {
    options.policy = policy;
    options.backend = "cpu";
    Engine host(options);
    options.backend = "cuda";
    Engine device(options);
    std::unique_ptr<Sequence> read_already;
    for (const auto& question : questions) {
      const std::string text = document + "\n\n" + question.at("question").get<std::string>();
      const auto prompt = host.encode(host.chat_prompt(user_turn(text)), true);
      const auto answer = [&](Engine& engine, Sequence& sequence, const Sequence* like) {
        const GenerateRequest request{.prompt = prompt, .max_tokens = 64, .like = like};
        return engine.decode(generate(engine, sequence, request).tokens);
      };
      const int64_t context = static_cast<int64_t>(prompt.size()) + 64;
      auto on_host = host.new_sequence(context);
      const auto on_device = device.new_sequence(context);
      const std::string want = answer(host, *on_host, read_already.get());
      const std::string got = answer(device, *on_device, nullptr);
      read_already = std::move(on_host);
      EXPECT_FALSE(got.empty());
      same += got == want;
      ++asked;
      if (got != want)
        std::printf("%s\n  host   %s\n  device %s\n", policy, want.c_str(), got.c_str());
    }
  }
  EXPECT_EQ(same, asked);
}

std::string message_of(const EngineOptions& options) {
  try {
    Engine engine(options);
    engine.new_sequence();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "";
}

TEST(DeviceEngine, RefusesByNameWhatRunsOnTheHostOnly) {
  const TemporaryModel model(tiny_model_records(shape_for("cuda")));
  EngineOptions options = options_for("cuda", model);
  for (const char* policy :
       {"streaming", "freekv:sketch=cuboid", "freekv-coverage:sketch=minmax+key2"}) {
    EngineOptions other = options;
    other.policy = policy;
    EXPECT_THAT(message_of(other), testing::HasSubstr(std::string("policy ") + policy));
  }
  EngineOptions f32 = options;
  f32.kv_type = "f32";
  EXPECT_THAT(message_of(f32), testing::HasSubstr("kv type is F32"));
  EngineOptions page = options;
  page.page = 8;
  EXPECT_THAT(message_of(page), testing::HasSubstr("page is 8"));
  const TemporaryModel narrow;
  EXPECT_THAT(message_of(options_for("cuda", narrow)), testing::HasSubstr("head dimension is 16"));
}

TEST(DeviceEngine, RefusesWhatDoesNotFitWithBothByteCounts) {
  const TemporaryModel model(tiny_model_records(shape_for("cuda")));
  EngineOptions options = options_for("cuda", model);
  options.policy = "freekv";
  options.device_kv = 3000;
  EXPECT_THAT(message_of(options), testing::ContainsRegex("fast tier needs [0-9]+.*limit is 1000"));
  options.device_kv = SIZE_MAX;
  options.host_kv = 6000;
  EXPECT_THAT(message_of(options), testing::ContainsRegex("slow tier needs [0-9]+.*limit is 2000"));
}

TEST(DeviceEngine, SaysWhatASequenceTakesBeforeItIsTaken) {
  const TemporaryModel model(tiny_model_records(shape_for("cuda")));
  EngineOptions options = options_for("cuda", model);
  options.policy = "freekv";
  Engine engine(options);
  const MemoryStats before = engine.memory_for(512);
  const auto sequence = engine.new_sequence(512);
  const MemoryStats held = sequence->memory();
  EXPECT_EQ(before.fast_kv_bytes, held.fast_kv_bytes);
  EXPECT_EQ(before.slow_kv_bytes, held.slow_kv_bytes);
  EXPECT_EQ(before.sketch_bytes, held.sketch_bytes);
  // 3 layers of 512 tokens of 2 heads of 64, K and V in 2 bytes.
  EXPECT_EQ(before.slow_kv_bytes, 3u * 512 * 2 * 64 * 2 * 2);
}

TEST(DeviceEngine, AutoTakesDenseAttentionWhileItFits) {
  const TemporaryModel model(tiny_model_records(shape_for("cuda")));
  EngineOptions options = options_for("cuda", model);
  options.policy = "auto:tau=0.9";
  const Engine wide(options);
  EXPECT_EQ(wide.options().policy, "full");
  EXPECT_THAT(wide.policy_note(), testing::HasSubstr("fits"));
  options.device_kv = 1 << 16;
  EXPECT_EQ(Engine(options).options().policy, "freekv:tau=0.9");
}

TEST(DeviceEngine, EnginesOfOneModelShareItsWeights) {
  const TemporaryModel model(tiny_model_records(shape_for("cuda")));
  EngineOptions options = options_for("cuda", model);
  const auto tokens = random_tokens(120, 3);
  const Logits alone = run(options, tokens, 100);
  auto first = std::make_unique<Engine>(options);
  options.policy = "freekv";
  options.budget = 512;
  Engine second(options, nullptr, first.get());
  first.reset();
  const auto sequence = second.new_sequence();
  EXPECT_EQ(run(second, *sequence, tokens, 100), alone);
}

}  // namespace
}  // namespace freekv
