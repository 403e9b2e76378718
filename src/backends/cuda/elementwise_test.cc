// Embedding and the step's end.
#include "backends/cuda/elementwise.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "backends/cuda/test_arrays.hpp"
#include "backends/op_cases.hpp"
#include "backends/op_test.hpp"
#include "freekv/error.hpp"

namespace freekv::cuda {
namespace {

struct Size {
  int rows, n;
};
// Around vectors of 4, blocks of 256 and 1024 threads of 1 or 4 values; models' sizes.
constexpr Size kSizes[] = {{1, 1},    {1, 3},    {2, 4},    {3, 5},    {5, 31},   {2, 127},
                           {2, 128},  {2, 129},  {1, 255},  {3, 257},  {4, 384},  {2, 1023},
                           {2, 1024}, {2, 1028}, {1, 4095}, {8, 4096}, {3, 4100}, {2, 14336}};

// Floats behind every output, which no kernel may touch.
constexpr int64_t kGuard = 64;

// Runs op(stream, out) on a poisoned out of `size` values.
template <typename Op>
std::vector<float> run(int64_t size, Op&& op) {
  const DeviceBuffer out = to_device(cases::poisoned(size + kGuard));
  const Stream stream;
  op(static_cast<cudaStream_t>(stream), out.as<float>());
  stream.synchronize();
  std::vector<float> values = to_host<float>(out);
  for (auto i = static_cast<size_t>(size); i < values.size(); ++i) {
    EXPECT_TRUE(std::isnan(values[i])) << i;
  }
  values.resize(static_cast<size_t>(size));
  return values;
}

TEST(CudaEmbed, IsExact) {
  constexpr int kVocabulary = 50;
  for (const Size& s : kSizes) {
    SCOPED_TRACE(s.n);
    const auto table = to_bf16(cases::random_floats(int64_t{kVocabulary} * s.n, 1));
    std::vector<int32_t> ids;
    for (int i = 0; i < s.rows; ++i) ids.push_back((kVocabulary - 1 + i * 7) % kVocabulary);
    const DeviceBuffer on_device = to_device(table);
    const DeviceBuffer ids_on_device = to_device(ids);
    const std::vector<float> out = run(int64_t{s.rows} * s.n, [&](cudaStream_t stream, float* to) {
      embed({on_device.data(), ids_on_device.as<int32_t>(), to, s.rows, s.n}, stream);
    });
    std::vector<float> expected;
    for (const int32_t id : ids) {
      for (int e = 0; e < s.n; ++e) {
        expected.push_back(bf16_to_f32(table[static_cast<size_t>(id * s.n + e)]));
      }
    }
    EXPECT_TRUE(same_bits(out, expected));
  }
}

TEST(CudaAdvance, CountsTheTokensOfTheBatchAndForgetsWhatWasTaken) {
  for (const int n : {0, 1, 3, 300}) {
    std::vector<int64_t> tokens(static_cast<size_t>(n + 5), int64_t{1} << 33);
    std::vector<int32_t> sequence;
    for (int b = 0; b < n; ++b) sequence.push_back(n + 3 - b);
    const DeviceBuffer of_sequence = to_device(tokens);
    const DeviceBuffer batch = to_device(sequence);
    const int32_t products = n == 1 ? 0 : 600 - n;
    const DeviceBuffer taken = to_device(std::vector<unsigned>(601, 7));
    const Stream stream;
    advance({batch.as<int32_t>(), of_sequence.as<int64_t>(), n, taken.as<unsigned>(), products},
            stream);
    stream.synchronize();
    std::vector<unsigned> expected(601, 7);
    std::fill_n(expected.begin(), products, 0u);
    EXPECT_EQ(to_host<unsigned>(taken), expected);
    for (const int32_t s : sequence) ++tokens[static_cast<size_t>(s)];
    EXPECT_EQ(to_host<int64_t>(of_sequence), tokens);
  }
}

TEST(CudaElementwise, IsTheSameInAGraph) {
  constexpr int kN = 96;
  const DeviceBuffer table = to_device(to_bf16(cases::random_floats(8 * kN, 2)));
  const DeviceBuffer ids = to_device(std::vector<int32_t>{5, 2});
  const DeviceBuffer tokens = to_device(std::vector<int64_t>(8));
  const auto all = [&](cudaStream_t stream, float* to) {
    embed({table.data(), ids.as<int32_t>(), to, 2, kN}, stream);
    advance({ids.as<int32_t>(), tokens.as<int64_t>(), 2}, stream);
  };
  const std::vector<float> queued = run(2 * kN, all);
  const std::vector<float> launched = run(2 * kN, [&](cudaStream_t stream, float* to) {
    const Graph graph = Graph::capture(stream, [&] { all(stream, to); });
    graph.launch(stream);
    check_cuda(cudaStreamSynchronize(stream), "the graph");
  });
  EXPECT_TRUE(same_bits(launched, queued));
  EXPECT_EQ(to_host<int64_t>(tokens), (std::vector<int64_t>{0, 0, 2, 0, 0, 2, 0, 0}));
}

TEST(CudaElementwise, RefusesSizesItCannotHave) {
  const Stream stream;
  EXPECT_NO_THROW(embed({nullptr, nullptr, nullptr, 0, 8}, stream));
  EXPECT_THROW(embed({nullptr, nullptr, nullptr, -1, 8}, stream), Error);
  EXPECT_THROW(embed({nullptr, nullptr, nullptr, 1, 0}, stream), Error);
  EXPECT_THROW(advance({nullptr, nullptr, -1}, stream), Error);
  EXPECT_THROW(advance({nullptr, nullptr, 0, nullptr, -1}, stream), Error);
}

}  // namespace
}  // namespace freekv::cuda
