// The values of GGUF metadata, as views of the file's bytes.
//
// Format: the GGUF specification, versions 2 and 3 (ggml, docs/gguf.md), little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

namespace freekv {

/// The value types with the numbers the format gives them.
enum class GgufType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

inline constexpr uint32_t kGgufTypeCount = 13;

/// "u32", "string", "array", ...; "?" for a number outside the enum.
std::string_view gguf_type_name(GgufType type);

/// Bytes of one element of a fixed-size type; 0 for strings and arrays.
size_t gguf_type_bytes(GgufType type);

/// One metadata value. Views the file, whose bytes the parser has already checked.
struct GgufValue {
  GgufType type = GgufType::kU8;
  GgufType element = GgufType::kU8;    // of an array; otherwise equal to `type`
  uint64_t count = 1;                  // elements of an array; otherwise 1
  std::span<const std::byte> payload;  // the scalar, the string's characters or the elements
};

/// Strings of an array in file order: a u64 length and its characters each. Random access would
/// need an index, which readers that walk the array once do not.
class GgufStringArray {
 public:
  class Iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using pointer = void;
    using reference = std::string_view;

    Iterator() = default;
    explicit Iterator(const std::byte* at) : at_(at) {}
    std::string_view operator*() const;
    Iterator& operator++();
    Iterator operator++(int) {
      Iterator old = *this;
      ++*this;
      return old;
    }
    bool operator==(const Iterator&) const = default;

   private:
    const std::byte* at_ = nullptr;
  };

  GgufStringArray() = default;
  explicit GgufStringArray(const GgufValue& value)
      : size_(static_cast<size_t>(value.count)), payload_(value.payload) {}

  size_t size() const { return size_; }
  Iterator begin() const { return Iterator(payload_.data()); }
  Iterator end() const { return Iterator(payload_.data() + payload_.size()); }

 private:
  size_t size_ = 0;
  std::span<const std::byte> payload_;
};

/// Numbers of an array, stored unaligned in any of the integer types (booleans are 0 and 1) or, for
/// T = float, also as f32 or f64; a number that T cannot hold is rounded to float.
template <typename T>
class GgufNumberArray {
 public:
  GgufNumberArray() = default;
  explicit GgufNumberArray(const GgufValue& value) : value_(value) {}

  size_t size() const { return static_cast<size_t>(value_.count); }
  /// i < size(). A u64 beyond the range of int64_t reads as its maximum.
  T operator[](size_t i) const;

 private:
  GgufValue value_{.count = 0, .payload = {}};
};

using GgufIntArray = GgufNumberArray<int64_t>;
using GgufFloatArray = GgufNumberArray<float>;

bool is_integer(GgufType type);  // u8 to i64, not bool
bool is_float(GgufType type);    // f32, f64

/// For listings: scalars in full, strings quoted, arrays as "[u32 x 3] 1, 2, 3" with at most
/// `max_elements` elements shown. One line.
std::string format_gguf_value(const GgufValue& value, size_t max_elements = 8);

}  // namespace freekv
