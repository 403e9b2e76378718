// Writes GGUF files, version 3: metadata and tensor descriptions first, then the data as a stream.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/dtype.hpp"
#include "io/atomic_file.hpp"
#include "io/gguf_value.hpp"

namespace freekv {

/// Everything but the data is collected in memory; begin() writes it, and the data of each tensor
/// follows in the order of add_tensor(), in pieces of any size.
class GgufWriter {
 public:
  void add(std::string_view key, uint32_t value);
  void add(std::string_view key, int32_t value);
  void add(std::string_view key, float value);
  void add(std::string_view key, bool value);
  void add(std::string_view key, std::string_view value);
  void add(std::string_view key, const char* value) { add(key, std::string_view(value)); }
  void add(std::string_view key, std::span<const std::string_view> values);
  void add(std::string_view key, std::span<const int32_t> values);
  void add(std::string_view key, std::span<const float> values);
  /// A value of a parsed file, byte for byte.
  void add(std::string_view key, const GgufValue& value);

  /// A tensor of `ne` values, innermost dimension first.
  void add_tensor(std::string_view name, std::span<const int64_t> ne, DType dtype);

  /// Bytes of all tensors' data, without padding.
  uint64_t data_bytes() const;

  /// Writes the header. `file` must outlive the writer; add no more after it.
  void begin(AtomicFile& file);
  /// The next bytes of the tensor at hand.
  void write(std::span<const std::byte> bytes);
  /// Checks that all announced data was written.
  void finish();

 private:
  template <typename T>
  void put(T value) {
    const auto* bytes = reinterpret_cast<const char*>(&value);
    records_.append(bytes, sizeof(T));
  }
  void put_string(std::string_view text);
  void put_key(std::string_view key, GgufType type);
  void put_array(std::string_view key, GgufType element, size_t count);
  void pad();

  struct Tensor {
    std::string name;
    std::vector<int64_t> ne;
    DType dtype;
    uint64_t bytes;
  };

  std::string records_;
  uint64_t entries_ = 0;
  std::vector<Tensor> tensors_;
  AtomicFile* file_ = nullptr;
  size_t tensor_ = 0;       // at hand
  uint64_t in_tensor_ = 0;  // bytes of it written
};

}  // namespace freekv
