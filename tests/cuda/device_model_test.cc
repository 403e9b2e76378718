// What the engine is given of a GPU: weights as they arrive there, a step that waits for nothing,
// and a device that is lost.
#include "backends/cuda/device_model.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "backends/cuda/prefill_cases.hpp"
#include "backends/cuda/test_arrays.hpp"
#include "core/quantize.hpp"
#include "lose_device.hpp"

namespace freekv::cuda {
namespace {

/// A model in host memory, its matrices in types that take turns.
class HostModel {
 public:
  static constexpr int kHidden = 64, kFfn = 96, kHeads = 4, kKvHeads = 2, kDim = 64, kVocab = 128;

  HostModel() {
    spec_.hidden = kHidden;
    spec_.ffn = kFfn;
    spec_.query_heads = kHeads;
    spec_.vocab = kVocab;
    spec_.norm_eps = 1e-5f;
    spec_.embedding = matrix(kVocab, kHidden);
    spec_.logits = matrix(kVocab, kHidden);
    spec_.final_norm = vector(kHidden);
    for (int l = 0; l < 2; ++l) {
      LayerWeights w;
      w.attention_norm = vector(kHidden);
      w.q = matrix(kHeads * kDim, kHidden);
      w.k = matrix(kKvHeads * kDim, kHidden);
      w.v = matrix(kKvHeads * kDim, kHidden);
      w.output = matrix(kHidden, kHeads * kDim);
      if (l == 1) w.k_bias = vector(kKvHeads * kDim);
      w.ffn_norm = vector(kHidden);
      w.gate = matrix(kFfn, kHidden);
      w.up = matrix(kFfn, kHidden);
      w.down = matrix(kHidden, kFfn);
      layers_.push_back(w);
    }
    spec_.layers = layers_;
    frequencies_.assign(kDim / 2, 0.1f);
    spec_.frequencies = frequencies_;
    spec_.kv = {kKvHeads, kDim, 16, DType::kBF16};
    spec_.pages = {16, 128, 1, 2, 5, 5};
    spec_.rule = {.budgeted = true, .slow = true, .selects = true, .speculative = true};
    spec_.context = 512;
    spec_.threads = 2;
  }

  const DeviceModelSpec& spec() const { return spec_; }

 private:
  WeightView matrix(int rows, int cols) {
    constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0};
    const DType dtype = kTypes[matrices_.size() % std::size(kTypes)];
    std::vector<std::byte>& bytes =
        matrices_.emplace_back(row_bytes(dtype, cols) * static_cast<size_t>(rows));
    quantize_row(dtype, cases::random_floats(int64_t{rows} * cols, ++seed_, 0.1f), bytes.data());
    return {bytes.data(), dtype, rows, cols};
  }
  View<const float, 1> vector(int size) {
    const auto& values = vectors_.emplace_back(cases::random_floats(size, ++seed_));
    return View<const float, 1>(values.data(), size);
  }

  DeviceModelSpec spec_;
  std::vector<LayerWeights> layers_;
  std::vector<float> frequencies_;
  std::vector<std::vector<std::byte>> matrices_;
  std::vector<std::vector<float>> vectors_;
  uint32_t seed_ = 0;
};

std::vector<uint16_t> expected_bits(std::initializer_list<const WeightView*> parts) {
  std::vector<uint16_t> bits;
  for (const WeightView* part : parts) {
    for (int64_t row = 0; row < part->rows; ++row) {
      for (int64_t i = 0; i < part->cols; ++i) {
        bits.push_back(f32_to_bf16(load_element(part->dtype, part->row(row), i)));
      }
    }
  }
  return bits;
}

template <typename T>
std::vector<T> read(const void* from, size_t count) {
  std::vector<T> values(count);
  check_cuda(cudaMemcpy(values.data(), from, count * sizeof(T), cudaMemcpyDeviceToHost), "read");
  return values;
}

TEST(UploadedWeights, AreTheFilesValuesAsBf16InFusedMatrices) {
  const HostModel model;
  const DeviceModelSpec& spec = model.spec();
  const UploadedWeights uploaded(spec);
  const DecoderWeights& weights = uploaded.weights();
  const auto check = [](const void* on_device, std::initializer_list<const WeightView*> parts) {
    const auto expected = expected_bits(parts);
    EXPECT_EQ(read<uint16_t>(on_device, expected.size()), expected);
  };
  check(weights.embedding, {&spec.embedding});
  check(weights.logits, {&spec.logits});
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    const LayerWeights& w = spec.layers[l];
    const DecoderLayer& layer = weights.layers[l];
    check(layer.qkv, {&w.q, &w.k, &w.v});
    check(layer.output, {&w.output});
    check(layer.gate_up, {&w.gate, &w.up});
    check(layer.down, {&w.down});
    const auto norm = read<float>(layer.ffn_norm, HostModel::kHidden);
    EXPECT_THAT(norm, testing::ElementsAreArray(w.ffn_norm.flat()));
  }
  EXPECT_EQ(weights.layers[0].qkv_bias, nullptr);
  // A layer with a bias of k alone: zeros for q and v.
  constexpr size_t kQ = HostModel::kHeads * HostModel::kDim;
  constexpr size_t kK = HostModel::kKvHeads * HostModel::kDim;
  std::vector<float> bias(kQ + 2 * kK);
  std::ranges::copy(spec.layers[1].k_bias.flat(), bias.begin() + kQ);
  EXPECT_EQ(read<float>(weights.layers[1].qkv_bias, bias.size()), bias);
  EXPECT_EQ(weights.layers[1].q_norm, nullptr);
}

TEST(UploadedWeights, StopWhenAskedTo) {
  const HostModel model;
  DeviceModelSpec spec = model.spec();
  spec.threads = 1;
  spec.on_load = [](size_t, size_t) { return false; };
  EXPECT_THROW(UploadedWeights{spec}, Error);
}

// A host function holds the stream up: a step that waited for the device would not return.
TEST(CudaModel, AStepIsOneLaunchThatWaitsForNothing) {
  const prefill_cases::Model model(prefill_cases::kCases[0]);
  const DecoderShape& shape = model.shape();
  const PageMap map{
      .page = shape.kv.page, .budget = 128, .sink = 1, .window = 2, .selected = 5, .resident = 5};
  Decoder decoder(shape, model.weights(),
                  {.budgeted = true, .slow = true, .selects = true, .speculative = true}, map,
                  {1, 1024, 1});
  const int32_t sequence = decoder.open(1024);
  decoder.begin(sequence, 500);
  for (int32_t i = 0; i < 4; ++i) decoder.step({{sequence}}, {{i}});  // captures the graph
  check_cuda(cudaStreamSynchronize(decoder.stream()), "the first steps");

  struct Gate {
    std::atomic<bool> open{false}, timed_out{false};
  } gate;
  check_cuda(cudaLaunchHostFunc(
                 decoder.stream(),
                 [](void* data) {
                   auto* gate = static_cast<Gate*>(data);
                   const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
                   while (!gate->open && std::chrono::steady_clock::now() < end) {
                     std::this_thread::sleep_for(std::chrono::milliseconds(1));
                   }
                   gate->timed_out = !gate->open;
                 },
                 &gate),
             "a gate");
  decoder.step({{sequence}}, {{7}});
  decoder.step({{sequence}}, {{8}});
  gate.open = true;
  check_cuda(cudaStreamSynchronize(decoder.stream()), "the steps behind the gate");
  EXPECT_FALSE(gate.timed_out) << "a step waited for the device";
  EXPECT_EQ(decoder.tokens(sequence), 506);
}

TEST(CudaModel, PrefillsDecodesAndCounts) {
  const HostModel model;
  CudaModel device(model.spec());
  const int32_t sequence = device.open(512);
  std::vector<int32_t> ids(300);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 31 % 128);
  const auto after_prompt = device.prefill(sequence, ids, nullptr);
  EXPECT_EQ(after_prompt.shape(0), HostModel::kVocab);
  for (int32_t id = 0; id < 5; ++id) device.decode({{sequence}}, {{id}});
  EXPECT_EQ(device.tokens(sequence), 305);
  std::vector<DeviceModel::LayerCounters> counters(2);
  device.counters(sequence, counters);
  for (const auto& layer : counters) {
    // Before attention in the first step, and at least once in each.
    EXPECT_GE(layer.selections, 5u * HostModel::kKvHeads);
    EXPECT_GE(layer.pages_selected, layer.misses_before + layer.misses_after);
  }
  device.close(sequence);
  // Its place is free again.
  for (int i = 0; i < 20; ++i) device.close(device.open(512));
}

void use_a_lost_device() {
  const HostModel model;
  {
    CudaModel device(model.spec());
    const int32_t sequence = device.open(512);
    const std::vector<int32_t> ids(40, 3);
    device.prefill(sequence, ids, nullptr);
    lose_device();
    std::string first, second;
    try {
      device.decode({{sequence}}, {{1}});
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kDevice) first = error.message();
    }
    try {
      device.open(512);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::kDevice) second = error.message();
    }
    if (first.empty() || second.find("is lost since") == std::string::npos) std::_Exit(1);
    device.close(sequence);
  }
  std::_Exit(7);  // destroyed without a crash
}

TEST(CudaModelDeathTest, ALostDeviceSaysSoAndLetsGo) {
  // A process of its own: CUDA does not work any more in the one that lost its device.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(use_a_lost_device(), testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace freekv::cuda
