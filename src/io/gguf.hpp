// GGUF model files, versions 2 and 3: metadata and tensors as views of a mapped file.
//
// The file is untrusted: parsing checks every count, length, offset and alignment before use, walks
// the bytes once, and allocates in proportion to the records actually present, never to a number
// that the file claims.
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
#include "io/gguf_tensor_type.hpp"
#include "io/gguf_value.hpp"
#include "io/mapped_file.hpp"

namespace freekv {

struct GgufEntry {
  std::string_view key;
  GgufValue value;
};

/// A tensor as the file describes it, of any known type.
struct GgufTensorInfo {
  std::string_view name;
  const GgufTensorType* type = nullptr;   // never null after parsing
  int dimensions = 0;                     // 1 to 4
  std::array<int64_t, 4> ne{1, 1, 1, 1};  // values per dimension, ne[0] contiguous; 1 where unused
  uint64_t offset = 0;                    // of its data, from the start of the file
  uint64_t bytes = 0;

  int64_t cols() const { return ne[0]; }
  int64_t rows() const { return ne[1] * ne[2] * ne[3]; }
  int64_t elements() const { return cols() * rows(); }
};

/// A tensor whose type this library computes with. Row r of rows() starts at
/// data + r * row_bytes(dtype, cols()); data is aligned as the file says (32 bytes by default).
struct GgufTensor {
  std::string_view name;
  DType dtype = DType::kF32;
  int dimensions = 0;
  std::array<int64_t, 4> ne{1, 1, 1, 1};
  const std::byte* data = nullptr;
  size_t bytes = 0;

  int64_t cols() const { return ne[0]; }
  int64_t rows() const { return ne[1] * ne[2] * ne[3]; }
  int64_t elements() const { return cols() * rows(); }
};

/// What a file holds, in file order; made by the parser. Views the file's bytes.
struct GgufContents {
  uint32_t version = 0;
  uint32_t alignment = 32;
  std::vector<GgufEntry> metadata;
  std::vector<GgufTensorInfo> tensors;
  std::vector<size_t> metadata_by_key;  // positions in `metadata`, keys ascending
  std::vector<size_t> tensors_by_name;
};

/// An open file. Everything it hands out views its bytes and lives as long as it does; moving it
/// keeps such views valid. Lookups are const and thread-safe.
///
/// Lookup errors carry the file in where() and name the key or tensor: kNotFound when a required
/// one is missing, kParse when a value has another type or is out of range, kUnsupported for a
/// tensor type that this library does not compute with.
class Gguf {
 public:
  static Result<Gguf> open(const std::string& path);
  /// Parses bytes that the caller keeps alive and unchanged; `name` stands for the file in errors.
  /// Tensor data is as aligned as `bytes` is.
  static Result<Gguf> parse(std::span<const std::byte> bytes, std::string name);

  const std::string& name() const { return name_; }  // the path it was opened with
  size_t file_bytes() const { return bytes_.size(); }
  uint32_t version() const { return contents_.version; }
  uint32_t alignment() const { return contents_.alignment; }

  std::span<const GgufEntry> metadata() const { return contents_.metadata; }
  std::span<const GgufTensorInfo> tensors() const { return contents_.tensors; }

  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// The raw value, or nullptr.
  const GgufValue* find(std::string_view key) const;

  /// Required values. Any integer type that holds a non-negative number serves as u64; f32 and f64
  /// serve as f32 (rounded to it); other conversions are refused.
  uint64_t get_u64(std::string_view key) const;
  float get_f32(std::string_view key) const;
  bool get_bool(std::string_view key) const;
  std::string_view get_string(std::string_view key) const;
  GgufStringArray get_strings(std::string_view key) const;
  GgufIntArray get_ints(std::string_view key) const;      // of integers or booleans
  GgufFloatArray get_floats(std::string_view key) const;  // of any numbers

  /// Optional values: nullopt when absent; a value of the wrong type is still an error.
  std::optional<uint64_t> find_u64(std::string_view key) const;
  std::optional<float> find_f32(std::string_view key) const;
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string_view> find_string(std::string_view key) const;
  std::optional<GgufStringArray> find_strings(std::string_view key) const;
  std::optional<GgufIntArray> find_ints(std::string_view key) const;
  std::optional<GgufFloatArray> find_floats(std::string_view key) const;

  /// The description of a tensor of any type, or nullptr.
  const GgufTensorInfo* find_tensor_info(std::string_view name) const;
  /// A tensor with its data: nullopt when absent, throws when its type is unsupported.
  std::optional<GgufTensor> find_tensor(std::string_view name) const;
  /// The same, and throws when absent.
  GgufTensor tensor(std::string_view name) const;
  /// Throws Error(kUnsupported) for the first tensor of a type this library does not compute with.
  void require_supported_types() const;

  /// Asks the system to read all tensor data ahead; nothing for parsed bytes.
  void prefetch() const;

 private:
  Gguf() = default;

  template <typename T, typename Convert>
  std::optional<T> find_as(std::string_view key, std::string_view expected, Convert convert) const;
  template <typename T>
  T required(std::string_view key, std::optional<T> value) const;
  DType require_dtype(const GgufTensorInfo& info) const;

  std::string name_;
  std::optional<MappedFile> file_;
  std::span<const std::byte> bytes_;
  GgufContents contents_;
};

}  // namespace freekv
