// Reads an untrusted byte range front to back; no read leaves the range.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace freekv {

static_assert(std::endian::native == std::endian::little, "the file formats are little-endian");

/// What is being read, for messages: "value type of metadata entry 3 'general.name'".
struct Field {
  std::string_view what;         // the field
  std::string_view record = {};  // the kind of record it is in, or empty
  uint64_t index = 0;            // which one
  std::string_view name = {};    // its name once that is known

  std::string text() const;
};

class ByteReader {
 public:
  /// Both must outlive the reader; `source` names the bytes in messages.
  ByteReader(std::span<const std::byte> bytes, std::string_view source)
      : bytes_(bytes), source_(source) {}

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }
  std::string_view source() const { return source_; }

  /// The next `length` bytes. Throws Error(kParse) with the field, what it takes and what is left.
  std::span<const std::byte> take(uint64_t length, const Field& field);

  /// The next value of a trivial type, unaligned, little-endian; throws like take().
  template <typename T>
  requires std::is_arithmetic_v<T> T read(const Field& field) {
    T value;
    std::memcpy(&value, take(sizeof(T), field).data(), sizeof(T));
    return value;
  }

  /// A u64 length and that many bytes; throws like take().
  std::string_view read_string(const Field& field);

 private:
  std::span<const std::byte> bytes_;
  std::string_view source_;
  size_t position_ = 0;
};

}  // namespace freekv
