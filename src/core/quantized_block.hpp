// GGUF's quantised blocks, byte by byte, and how each becomes small integers with scales: the one
// scalar definition of these formats. Sources: ggml's block structs and the gguf Python package.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/check.hpp"
#include "core/dtype.hpp"

namespace freekv {

// All members are bytes, so that blocks may lie at any address. `d` and `m` are f16.
struct BlockQ8_0 {  // 32 values d * q
  uint8_t d[2];
  int8_t q[32];
};
struct BlockQ4_0 {  // 32 values d * (q - 8)
  uint8_t d[2];
  uint8_t q[16];  // values i and i + 16 in one byte, i in the low half
};
struct BlockQ4_1 {  // 32 values d * q + m
  uint8_t d[2];
  uint8_t m[2];
  uint8_t q[16];
};
struct BlockQ5_0 {  // 32 values d * (q - 16)
  uint8_t d[2];
  uint8_t high[4];  // bit i is the fifth bit of value i
  uint8_t q[16];
};
struct BlockQ5_1 {  // 32 values d * q + m
  uint8_t d[2];
  uint8_t m[2];
  uint8_t high[4];
  uint8_t q[16];
};
struct BlockQ4_K {  // 8 parts of 32 values d * scale * q - m * min
  uint8_t d[2];
  uint8_t m[2];
  uint8_t scales[12];  // 8 scales and 8 mins of six bits: unpack_k_scales()
  uint8_t q[128];      // 32 bytes hold part 2i in their low and part 2i + 1 in their high halves
};
struct BlockQ5_K {  // as Q4_K
  uint8_t d[2];
  uint8_t m[2];
  uint8_t scales[12];
  uint8_t high[32];  // bit j of byte i is the fifth bit of value i of part j
  uint8_t q[128];
};
struct BlockQ6_K {   // 16 parts of 16 values d * scale * (q - 32)
  uint8_t low[128];  // of each 128 values: 64 bytes, value i low and value i + 64 high
  uint8_t high[64];  // of each 128 values: 32 bytes of two bits of the values i + 0, 32, 64, 96
  int8_t scales[16];
  uint8_t d[2];
};

namespace detail {
template <DType kType>
struct BlockOf;
// clang-format off
template <> struct BlockOf<DType::kQ8_0> { using type = BlockQ8_0; };
template <> struct BlockOf<DType::kQ4_0> { using type = BlockQ4_0; };
template <> struct BlockOf<DType::kQ4_1> { using type = BlockQ4_1; };
template <> struct BlockOf<DType::kQ5_0> { using type = BlockQ5_0; };
template <> struct BlockOf<DType::kQ5_1> { using type = BlockQ5_1; };
template <> struct BlockOf<DType::kQ4_K> { using type = BlockQ4_K; };
template <> struct BlockOf<DType::kQ5_K> { using type = BlockQ5_K; };
template <> struct BlockOf<DType::kQ6_K> { using type = BlockQ6_K; };
// clang-format on
}  // namespace detail

template <DType kType>
using QuantBlock = typename detail::BlockOf<kType>::type;

/// Block `b` of a row.
template <DType kType>
const QuantBlock<kType>& quant_block(const std::byte* row, int64_t b) {
  static_assert(sizeof(QuantBlock<kType>) == dtype_info(kType).block_bytes);
  return reinterpret_cast<const QuantBlock<kType>*>(row)[b];
}

inline uint16_t load_u16(const uint8_t* bytes) {
  uint16_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}
inline uint32_t load_u32(const uint8_t* bytes) {
  uint32_t value = 0;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

/// The scales and mins of the 8 parts of a Q4_K or Q5_K block: byte j belongs to part j.
struct KScales {
  uint8_t scales[8];
  uint8_t mins[8];
};
/// Six bits of parts 0 to 3 lie in a byte each, first scales, then mins; the low four bits of parts
/// 4 to 7 in the halves of the last four bytes, their other two above those of parts 0 to 3.
inline KScales unpack_k_scales(const uint8_t* packed) {
  uint64_t first = 0;
  std::memcpy(&first, packed, sizeof(first));
  const uint64_t last = load_u32(packed + 8);
  const uint64_t low = first & 0x3f3f3f3f3f3f3f3fu;  // scales 0 to 3, mins 0 to 3
  const uint64_t high =                              // scales 4 to 7, mins 4 to 7
      ((last | (last << 28)) & 0x0f0f0f0f0f0f0f0fu) | ((first >> 2) & 0x3030303030303030u);
  const uint64_t scales = (low & 0xffffffffu) | (high << 32);
  const uint64_t mins = (low >> 32) | (high & 0xffffffff00000000u);
  KScales result;
  std::memcpy(result.scales, &scales, sizeof(scales));
  std::memcpy(result.mins, &mins, sizeof(mins));
  return result;
}

/// Values are unpacked 32 at a time, in every type.
inline constexpr int kPiece = 32;

/// How 32 integers q become values: q * scale - min, with one scale for each half.
struct PieceScales {
  float scale[2];
  float min;
};
struct QuantPiece {
  int8_t q[kPiece];
  PieceScales scales;

  float value(int i) const { return static_cast<float>(q[i]) * scales.scale[i / 16] - scales.min; }
};

/// What is subtracted from the unsigned integers of a block to give q.
template <DType kType>
inline constexpr int kQuantOffset = kType == DType::kQ4_0   ? 8
                                    : kType == DType::kQ5_0 ? 16
                                    : kType == DType::kQ6_K ? 32
                                                            : 0;

/// Of values 32 * part ... of a block.
template <DType kType>
PieceScales piece_scales(const QuantBlock<kType>& block, int part) {
  const float d = f16_to_f32(load_u16(block.d));
  if constexpr (kType == DType::kQ6_K) {
    return {{d * block.scales[2 * part], d * block.scales[2 * part + 1]}, 0};
  } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    const KScales k = unpack_k_scales(block.scales);
    const float scale = d * k.scales[part];
    return {{scale, scale}, f16_to_f32(load_u16(block.m)) * k.mins[part]};
  } else if constexpr (kType == DType::kQ4_1 || kType == DType::kQ5_1) {
    return {{d, d}, -f16_to_f32(load_u16(block.m))};
  } else {
    return {{d, d}, 0};
  }
}

/// Values 32 * piece ... of a row.
template <DType kType>
inline void unpack_piece(const std::byte* row, int64_t piece, QuantPiece& out) {
  constexpr int kPieces = dtype_info(kType).block_values / kPiece;
  const QuantBlock<kType>& block = quant_block<kType>(row, piece / kPieces);
  const auto part = static_cast<int>(piece % kPieces);
  out.scales = piece_scales<kType>(block, part);
  const auto store = [&](int i, int bits) {
    out.q[i] = static_cast<int8_t>(bits - kQuantOffset<kType>);
  };
  if constexpr (kType == DType::kQ8_0) {
    std::memcpy(out.q, block.q, kPiece);
  } else if constexpr (kType == DType::kQ6_K) {
    const uint8_t* low = block.low + part / 4 * 64 + part % 2 * 32;
    const uint8_t* high = block.high + part / 4 * 32;
    const int low_shift = part % 4 / 2 * 4;
    const int high_shift = part % 4 * 2;
    for (int i = 0; i < kPiece; ++i) {
      store(i, ((low[i] >> low_shift) & 15) | (((high[i] >> high_shift) & 3) << 4));
    }
  } else if constexpr (kType == DType::kQ4_K || kType == DType::kQ5_K) {
    const uint8_t* q = block.q + part / 2 * 32;
    for (int i = 0; i < kPiece; ++i) {
      int bits = (q[i] >> (part % 2 * 4)) & 15;
      if constexpr (kType == DType::kQ5_K) bits |= ((block.high[i] >> part) & 1) << 4;
      store(i, bits);
    }
  } else {
    uint32_t high = 0;
    if constexpr (kType == DType::kQ5_0 || kType == DType::kQ5_1) high = load_u32(block.high);
    for (int i = 0; i < kPiece; ++i) {
      store(i, ((block.q[i % 16] >> (i / 16 * 4)) & 15) | static_cast<int>((high >> i & 1) << 4));
    }
  }
}

template <DType kType>
using DTypeConstant = std::integral_constant<DType, kType>;

/// Calls body(DTypeConstant<dtype>{}) for a quantised dtype known at run time; throws for others.
template <typename Body>
decltype(auto) dispatch_quantized(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kQ8_0:
      return body(DTypeConstant<DType::kQ8_0>{});
    case DType::kQ4_0:
      return body(DTypeConstant<DType::kQ4_0>{});
    case DType::kQ4_1:
      return body(DTypeConstant<DType::kQ4_1>{});
    case DType::kQ5_0:
      return body(DTypeConstant<DType::kQ5_0>{});
    case DType::kQ5_1:
      return body(DTypeConstant<DType::kQ5_1>{});
    case DType::kQ4_K:
      return body(DTypeConstant<DType::kQ4_K>{});
    case DType::kQ5_K:
      return body(DTypeConstant<DType::kQ5_K>{});
    case DType::kQ6_K:
      return body(DTypeConstant<DType::kQ6_K>{});
    default:
      fail(ErrorCode::kInternal, "dtype {} is not quantised", static_cast<int>(dtype));
  }
}

inline QuantPiece unpack_piece(DType dtype, const std::byte* row, int64_t piece) {
  QuantPiece out;
  dispatch_quantized(dtype, [&](auto type) { unpack_piece<type()>(row, piece, out); });
  return out;
}

}  // namespace freekv
