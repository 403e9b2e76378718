// Builds GGUF files in memory, good and hostile, for tests and fuzzing corpora.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "io/gguf_value.hpp"

namespace freekv {

/// Collects records, then bytes() lays them out. Nothing is checked, and the fields of the header
/// can be set to lies.
class GgufTestFile {
 public:
  std::string magic = "GGUF";
  uint32_t version = 3;
  std::optional<uint64_t> claimed_tensors;
  std::optional<uint64_t> claimed_entries;
  uint64_t data_alignment = 32;  // of the data section; not written as metadata

  template <typename T>
  static std::string number(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  static std::string string(std::string_view text) {
    return number<uint64_t>(text.size()) + std::string(text);
  }

  template <typename T>
  static constexpr GgufType type_of() {
    if constexpr (std::is_same_v<T, bool>) return GgufType::kBool;
    if constexpr (std::is_same_v<T, uint8_t>) return GgufType::kU8;
    if constexpr (std::is_same_v<T, int8_t>) return GgufType::kI8;
    if constexpr (std::is_same_v<T, uint16_t>) return GgufType::kU16;
    if constexpr (std::is_same_v<T, int16_t>) return GgufType::kI16;
    if constexpr (std::is_same_v<T, uint32_t>) return GgufType::kU32;
    if constexpr (std::is_same_v<T, int32_t>) return GgufType::kI32;
    if constexpr (std::is_same_v<T, uint64_t>) return GgufType::kU64;
    if constexpr (std::is_same_v<T, int64_t>) return GgufType::kI64;
    if constexpr (std::is_same_v<T, float>) return GgufType::kF32;
    if constexpr (std::is_same_v<T, double>) return GgufType::kF64;
  }

  /// A record of any type number with any payload.
  GgufTestFile& raw(std::string_view key, uint32_t type, const std::string& payload) {
    entries_.push_back(string(key) + number(type) + payload);
    return *this;
  }
  template <typename T>
  GgufTestFile& scalar(std::string_view key, T value) {
    return raw(key, static_cast<uint32_t>(type_of<T>()), number(value));
  }
  GgufTestFile& text(std::string_view key, std::string_view value) {
    return raw(key, static_cast<uint32_t>(GgufType::kString), string(value));
  }
  template <typename T>
  GgufTestFile& array(std::string_view key, const std::vector<T>& values) {
    std::string payload = number(static_cast<uint32_t>(type_of<T>()));
    payload += number<uint64_t>(values.size());
    for (const T value : values) payload += number<T>(value);
    return raw(key, static_cast<uint32_t>(GgufType::kArray), payload);
  }
  GgufTestFile& texts(std::string_view key, const std::vector<std::string>& values) {
    std::string payload = number(static_cast<uint32_t>(GgufType::kString));
    payload += number<uint64_t>(values.size());
    for (const std::string& value : values) payload += string(value);
    return raw(key, static_cast<uint32_t>(GgufType::kArray), payload);
  }

  /// A tensor description with any fields; adds no data.
  GgufTestFile& raw_tensor(std::string_view name, const std::vector<uint64_t>& ne, uint32_t type,
                           uint64_t offset) {
    std::string record = string(name) + number(static_cast<uint32_t>(ne.size()));
    for (const uint64_t extent : ne) record += number(extent);
    tensors_.push_back(record + number(type) + number(offset));
    return *this;
  }
  /// A tensor with its data at the next aligned offset.
  GgufTestFile& tensor(std::string_view name, const std::vector<uint64_t>& ne, uint32_t type,
                       const std::string& data) {
    pad(data_);
    raw_tensor(name, ne, type, data_.size());
    data_ += data;
    return *this;
  }

  std::string bytes() const {
    std::string file = magic + number(version);
    file += number<uint64_t>(claimed_tensors.value_or(tensors_.size()));
    file += number<uint64_t>(claimed_entries.value_or(entries_.size()));
    for (const std::string& entry : entries_) file += entry;
    for (const std::string& tensor : tensors_) file += tensor;
    if (!data_.empty()) {
      pad(file);
      file += data_;
    }
    return file;
  }

 private:
  void pad(std::string& text) const {
    while (text.size() % data_alignment != 0) text += '\0';
  }

  std::vector<std::string> entries_;
  std::vector<std::string> tensors_;
  std::string data_;
};

}  // namespace freekv
