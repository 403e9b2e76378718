// safetensors files: named tensors as views of a mapped file.
//
// Format: the safetensors specification (Hugging Face): a u64 header length, a JSON header of
// {name: {dtype, shape, data_offsets}}, then the data without gaps. The file is untrusted: header
// size, dtypes, shapes and offsets are checked before use, and memory is taken in proportion to the
// header that is present.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.hpp"
#include "freekv/error.hpp"
#include "io/mapped_file.hpp"

namespace freekv {

/// An element type of the format.
struct SafetensorsType {
  std::string_view name;       // as in the file: "F32", "BF16", "I64", ...
  uint32_t bits = 0;           // of one element
  std::optional<DType> dtype;  // set when this library computes with the type
};

struct SafetensorsInfo {
  static constexpr size_t kMaxDimensions = 8;

  std::string name;
  const SafetensorsType* type = nullptr;        // never null after parsing
  size_t dimensions = 0;                        // 0 for a scalar
  std::array<int64_t, kMaxDimensions> shape{};  // outermost first
  uint64_t offset = 0;                          // of its data, from the start of the file
  uint64_t bytes = 0;

  std::span<const int64_t> extents() const { return {shape.data(), dimensions}; }
};

/// An open file; what it hands out lives as long as it does, and stays valid when it is moved.
/// Lookups are const and thread-safe.
class Safetensors {
 public:
  /// Errors name file, tensor and field: kParse, kUnsupported for an unknown dtype, and those of
  /// MappedFile::open.
  static Result<Safetensors> open(const std::string& path);
  /// Parses bytes that the caller keeps alive and unchanged.
  static Result<Safetensors> parse(std::span<const std::byte> bytes, std::string name);

  const std::string& name() const { return name_; }  // the path it was opened with
  size_t file_bytes() const { return bytes_.size(); }
  std::span<const SafetensorsInfo> tensors() const { return tensors_; }  // names ascending
  /// nullptr when absent.
  const SafetensorsInfo* find(std::string_view tensor) const;
  /// Aligned to nothing: the format pads its header only by custom.
  const std::byte* data(const SafetensorsInfo& tensor) const {
    return bytes_.data() + tensor.offset;
  }

 private:
  Safetensors() = default;

  std::string name_;
  std::optional<MappedFile> file_;
  std::span<const std::byte> bytes_;
  std::vector<SafetensorsInfo> tensors_;
};

}  // namespace freekv
