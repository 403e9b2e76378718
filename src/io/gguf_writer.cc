#include "io/gguf_writer.hpp"

#include <algorithm>

#include "core/check.hpp"
#include "io/gguf_tensor_type.hpp"

namespace freekv {
namespace {

constexpr uint64_t kAlignment = 32;  // the format's default, which needs no key

uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void GgufWriter::put_string(std::string_view text) {
  put<uint64_t>(text.size());
  records_.append(text);
}

void GgufWriter::put_key(std::string_view key, GgufType type) {
  put_string(key);
  put(static_cast<uint32_t>(type));
  ++entries_;
}

void GgufWriter::put_array(std::string_view key, GgufType element, size_t count) {
  put_key(key, GgufType::kArray);
  put(static_cast<uint32_t>(element));
  put<uint64_t>(count);
}

void GgufWriter::add(std::string_view key, uint32_t value) {
  put_key(key, GgufType::kU32);
  put(value);
}

void GgufWriter::add(std::string_view key, int32_t value) {
  put_key(key, GgufType::kI32);
  put(value);
}

void GgufWriter::add(std::string_view key, float value) {
  put_key(key, GgufType::kF32);
  put(value);
}

void GgufWriter::add(std::string_view key, bool value) {
  put_key(key, GgufType::kBool);
  put<uint8_t>(value ? 1 : 0);
}

void GgufWriter::add(std::string_view key, std::string_view value) {
  put_key(key, GgufType::kString);
  put_string(value);
}

void GgufWriter::add(std::string_view key, std::span<const std::string_view> values) {
  put_array(key, GgufType::kString, values.size());
  for (const std::string_view value : values) put_string(value);
}

void GgufWriter::add(std::string_view key, std::span<const int32_t> values) {
  put_array(key, GgufType::kI32, values.size());
  for (const int32_t value : values) put(value);
}

void GgufWriter::add(std::string_view key, std::span<const float> values) {
  put_array(key, GgufType::kF32, values.size());
  for (const float value : values) put(value);
}

void GgufWriter::add(std::string_view key, const GgufValue& value) {
  const std::string_view payload(reinterpret_cast<const char*>(value.payload.data()),
                                 value.payload.size());
  if (value.type == GgufType::kString) {
    add(key, payload);
    return;
  }
  if (value.type == GgufType::kArray) {
    put_array(key, value.element, static_cast<size_t>(value.count));
  } else {
    put_key(key, value.type);
  }
  records_.append(payload);
}

void GgufWriter::add_tensor(std::string_view name, std::span<const int64_t> ne, DType dtype) {
  int64_t rows = 1;
  for (const int64_t extent : ne.subspan(1)) rows *= extent;
  tensors_.push_back({std::string(name),
                      {ne.begin(), ne.end()},
                      dtype,
                      row_bytes(dtype, ne[0]) * static_cast<uint64_t>(rows)});
}

uint64_t GgufWriter::data_bytes() const {
  uint64_t bytes = 0;
  for (const Tensor& tensor : tensors_) bytes += tensor.bytes;
  return bytes;
}

void GgufWriter::begin(AtomicFile& file) {
  file_ = &file;
  std::string entries;
  entries.swap(records_);
  records_ = "GGUF";
  put<uint32_t>(3);
  put<uint64_t>(tensors_.size());
  put<uint64_t>(entries_);
  records_ += entries;
  uint64_t offset = 0;
  for (const Tensor& tensor : tensors_) {
    put_string(tensor.name);
    put(static_cast<uint32_t>(tensor.ne.size()));
    for (const int64_t extent : tensor.ne) put(static_cast<uint64_t>(extent));
    put(gguf_type_id(tensor.dtype));
    put(offset);
    offset += aligned(tensor.bytes);
  }
  file_->write(std::as_bytes(std::span(records_)));
  pad();
}

void GgufWriter::pad() {
  static constexpr std::byte kZeros[kAlignment] = {};
  const uint64_t past = file_->written() % kAlignment;
  if (past != 0) file_->write(std::span(kZeros).first(static_cast<size_t>(kAlignment - past)));
}

void GgufWriter::write(std::span<const std::byte> bytes) {
  check_internal(tensor_ < tensors_.size() && bytes.size() <= tensors_[tensor_].bytes - in_tensor_,
                 "{} bytes of data, tensor {} of {} has fewer left", bytes.size(), tensor_,
                 tensors_.size());
  file_->write(bytes);
  in_tensor_ += bytes.size();
  if (in_tensor_ == tensors_[tensor_].bytes) {
    pad();
    ++tensor_;
    in_tensor_ = 0;
  }
}

void GgufWriter::finish() {
  check_internal(tensor_ == tensors_.size(), "data of {} tensors, {} were announced", tensor_,
                 tensors_.size());
}

}  // namespace freekv
