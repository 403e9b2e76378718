// The table of operation cases: sizes at the edges of blocks, every dtype and layout. The parity
// tests run all of it; the benchmarks build their inputs with the same makers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.hpp"
#include "core/quantize.hpp"
#include "core/quantized_block.hpp"

namespace freekv::cases {

inline constexpr DType kWeightTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                                         DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                         DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};
inline constexpr DType kKvTypes[] = {DType::kF32, DType::kF16, DType::kBF16};
inline constexpr KvLayout kLayouts[] = {KvLayout::kNHD, KvLayout::kHND};
inline constexpr int kThreads[] = {2, 3};

// --- inputs --------------------------------------------------------------------------------------

/// Normal random numbers of the given deviation, the same for a seed on every machine.
inline std::vector<float> random_floats(int64_t n, uint32_t seed, float deviation = 1) {
  std::mt19937 generator(seed);
  std::vector<float> values(static_cast<size_t>(n));
  for (float& value : values) {  // Irwin-Hall: std::normal_distribution differs between libraries
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += generator() * 0x1p-32;
    value = static_cast<float>(sum) * deviation;
  }
  return values;
}

/// An output in which an element nobody wrote shows.
inline std::vector<float> poisoned(int64_t n) {
  return std::vector<float>(static_cast<size_t>(n), std::numeric_limits<float>::quiet_NaN());
}

/// Largest difference over the root mean square of what is expected; infinite for NaN.
inline double relative_error(std::span<const float> actual, std::span<const float> expected) {
  double squares = 0;
  double worst = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    squares += static_cast<double>(expected[i]) * expected[i];
    const double difference = std::abs(static_cast<double>(actual[i]) - expected[i]);
    worst = std::isnan(difference) ? std::numeric_limits<double>::infinity()
                                   : std::max(worst, difference);
  }
  if (worst == 0) return 0;
  return worst / std::sqrt(squares / static_cast<double>(expected.size()));
}

/// Random blocks of a quantised type, such that the values have a deviation near 1.
inline void random_blocks(DType dtype, std::span<std::byte> bytes, uint32_t seed) {
  std::mt19937_64 generator(seed);
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t bits = generator();
    std::memcpy(bytes.data() + i, &bits, std::min<size_t>(8, bytes.size() - i));
  }
  dispatch_quantized(dtype, [&](auto type) {
    using Block = QuantBlock<type()>;
    // Quants are uniform: of n values, n / sqrt(12). K scales are 31 on the average, Q6_K's 0.
    constexpr float kSpread = type() == DType::kQ8_0                             ? 74.0f
                              : type() == DType::kQ4_K                           ? 4.6f * 36
                              : type() == DType::kQ5_K                           ? 9.2f * 36
                              : type() == DType::kQ6_K                           ? 18.5f * 74
                              : type() == DType::kQ4_0 || type() == DType::kQ4_1 ? 4.6f
                                                                                 : 9.2f;
    const uint16_t d = f32_to_f16(1 / kSpread);
    auto* blocks = reinterpret_cast<Block*>(bytes.data());
    for (size_t b = 0; b < bytes.size() / sizeof(Block); ++b) {
      std::memcpy(blocks[b].d, &d, sizeof(d));
      if constexpr (requires { blocks[b].m; }) {
        // The middle of the values becomes 0.
        const bool k_type = type() == DType::kQ4_K || type() == DType::kQ5_K;
        const float middle = type() == DType::kQ4_1 || type() == DType::kQ4_K ? 7.5f : 15.5f;
        const uint16_t m = f32_to_f16((k_type ? middle : -middle) / kSpread);
        std::memcpy(blocks[b].m, &m, sizeof(m));
      }
    }
  });
}

/// A random matrix in its stored form, at an address that is aligned to nothing.
class Matrix {
 public:
  Matrix(DType dtype, int64_t rows, int64_t cols, uint32_t seed)
      : dtype_(dtype), rows_(rows), cols_(cols) {
    const size_t stride = row_bytes(dtype, cols);
    bytes_.resize(static_cast<size_t>(rows) * stride + 1);
    if (!can_quantize(dtype)) {
      random_blocks(dtype, std::span(bytes_).subspan(1), seed);
      return;
    }
    const std::vector<float> values = random_floats(rows * cols, seed);
    for (int64_t r = 0; r < rows; ++r) {
      quantize_row(dtype, std::span(values).subspan(r * cols, cols),
                   bytes_.data() + 1 + r * stride);
    }
  }
  WeightView view() const { return {bytes_.data() + 1, dtype_, rows_, cols_}; }
  size_t bytes() const { return bytes_.size() - 1; }

 private:
  DType dtype_;
  int64_t rows_;
  int64_t cols_;
  std::vector<std::byte> bytes_;
};

/// KV of one sequence of `tokens` tokens in a pool with slots to spare, in random order. What no
/// token wrote is NaN, in the other slots and after the last token.
class PagedKv {
 public:
  PagedKv(const KvShape& shape, KvLayout layout, int64_t tokens, uint32_t seed) {
    const auto pages = static_cast<int32_t>((tokens + shape.page - 1) / shape.page);
    pool_.shape = shape;
    pool_.layout = layout;
    pool_.slots = pages + 2;
    bytes_.resize(static_cast<size_t>(pool_.slots) * shape.slot_bytes(), std::byte{0xff});
    pool_.data = bytes_.data();
    slots_.resize(static_cast<size_t>(pool_.slots));
    std::iota(slots_.begin(), slots_.end(), 0);
    std::mt19937 generator(seed);
    for (size_t i = slots_.size(); i > 1; --i) std::swap(slots_[i - 1], slots_[generator() % i]);
    slots_.resize(static_cast<size_t>(pages));
    const std::vector<float> values =
        random_floats(tokens * shape.heads * shape.head_dim * 2, seed + 1);
    const float* next = values.data();
    for (int64_t t = 0; t < tokens; ++t) {
      const int32_t slot = slots_[static_cast<size_t>(t / shape.page)];
      const size_t offset = static_cast<size_t>(t % shape.page) * pool_.token_stride();
      for (int head = 0; head < shape.heads; ++head) {
        for (int e = 0; e < shape.head_dim; ++e) {
          store_element(shape.dtype, pool_.keys(slot, head) + offset, e, *next++);
          store_element(shape.dtype, pool_.values(slot, head) + offset, e, *next++);
        }
      }
    }
  }
  PagedKv(const PagedKv&) = delete;
  PagedKv& operator=(const PagedKv&) = delete;

  const KvPool& pool() const { return pool_; }
  std::span<const int32_t> slots() const { return slots_; }

 private:
  std::vector<std::byte> bytes_;
  std::vector<int32_t> slots_;
  KvPool pool_;
};

// --- linear --------------------------------------------------------------------------------------

struct LinearCase {
  DType dtype;
  int64_t rows;
  int64_t n;
  int64_t k;
  bool accumulate;

  std::string name() const {
    return std::string(dtype_name(dtype)) + " T=" + std::to_string(rows) +
           " N=" + std::to_string(n) + " K=" + std::to_string(k) + (accumulate ? " +=" : "");
  }
};

inline std::vector<LinearCase> linear_cases() {
  struct Size {
    int64_t rows, n, k;
  };
  // Around the blocks of rows (2, 4, 6, 96), of weights (4, 8, 16, 64) and of k (32, 128, 512).
  constexpr Size kSizes[] = {{1, 1, 1},    {1, 8, 32},    {1, 7, 31},    {2, 9, 33},
                             {3, 64, 64},  {4, 65, 127},  {5, 63, 160},  {6, 1, 129},
                             {7, 130, 96}, {8, 17, 512},  {1, 300, 544}, {13, 70, 513},
                             {97, 40, 64}, {95, 129, 96}, {1, 0, 32},    {0, 5, 32}};
  std::vector<LinearCase> result;
  for (const DType dtype : kWeightTypes) {
    for (const Size& size : kSizes) {
      const int64_t block = dtype_info(dtype).block_values;
      const int64_t k = (size.k + block - 1) / block * block;
      result.push_back({dtype, size.rows, size.n, k, size.n % 2 == 0});
    }
  }
  return result;
}

// --- prefill attention ---------------------------------------------------------------------------

struct PrefillCase {
  KvShape shape;
  KvLayout layout;
  int group;
  int64_t position;
  int64_t tokens;

  std::string name() const {
    return std::string(dtype_name(shape.dtype)) + (layout == KvLayout::kNHD ? " NHD" : " HND") +
           " M=" + std::to_string(shape.heads) + " G=" + std::to_string(group) +
           " d=" + std::to_string(shape.head_dim) + " p=" + std::to_string(shape.page) + " at " +
           std::to_string(position) + "+" + std::to_string(tokens);
  }
};

inline std::vector<PrefillCase> prefill_cases() {
  struct Size {
    int kv_heads, group, head_dim, page;
    int64_t position, tokens;
  };
  // Every head dimension, every group from 1 to 16, around the blocks of 256 keys, and of
  // 8 to 384 rows; chunks that start inside a page.
  constexpr Size kSizes[] = {
      {1, 1, 64, 16, 0, 1},    {2, 4, 64, 32, 0, 33},   {2, 4, 64, 32, 255, 2},
      {1, 4, 64, 32, 256, 1},  {2, 4, 64, 32, 300, 97}, {1, 3, 80, 16, 37, 66},
      {3, 2, 96, 32, 250, 13}, {1, 5, 96, 64, 511, 3},  {2, 6, 128, 32, 100, 40},
      {1, 7, 128, 16, 0, 60},  {1, 8, 256, 32, 0, 35},  {1, 16, 64, 32, 5, 30},
      {1, 1, 64, 32, 0, 400},  {1, 2, 20, 8, 30, 9},    {1, 1, 64, 32, 10, 0},
      {1, 9, 96, 16, 20, 12},  {2, 10, 64, 32, 0, 17},  {1, 11, 80, 16, 255, 9},
      {1, 12, 128, 32, 31, 5}, {1, 13, 64, 16, 7, 20},  {1, 14, 256, 32, 3, 8},
      {1, 15, 96, 8, 60, 10}};
  std::vector<PrefillCase> result;
  size_t combination = 0;
  for (const DType dtype : kKvTypes) {
    for (const KvLayout layout : kLayouts) {
      // Every size with one combination of dtype and layout, and a third of them, in turn, with
      // each other: every pair meets without every triple.
      for (size_t i = 0; i < std::size(kSizes); ++i) {
        if (combination != 2 && i % 3 != combination % 3) continue;
        const Size& size = kSizes[i];
        result.push_back({{size.kv_heads, size.head_dim, size.page, dtype},
                          layout,
                          size.group,
                          size.position,
                          size.tokens});
      }
      ++combination;
    }
  }
  return result;
}

}  // namespace freekv::cases
