#include "io/gguf.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "io/gguf_parse.hpp"
#include "io/quote.hpp"

namespace freekv {
namespace {

template <typename Record>
const Record* find_by_name(const std::vector<Record>& records, const std::vector<size_t>& order,
                           std::string_view Record::*member, std::string_view name) {
  const auto it = std::lower_bound(
      order.begin(), order.end(), name,
      [&](size_t i, std::string_view wanted) { return records[i].*member < wanted; });
  return it != order.end() && records[*it].*member == name ? &records[*it] : nullptr;
}

// What a lookup found in place of the expected type.
std::string found_text(const GgufValue& value) {
  if (value.type == GgufType::kArray) {
    return fmt::format("array of {} {}", value.count, gguf_type_name(value.element));
  }
  return fmt::format("{} {}", gguf_type_name(value.type), format_gguf_value(value));
}

std::optional<uint64_t> to_u64(const GgufValue& value) {
  if (!is_integer(value.type)) return std::nullopt;
  if (value.type == GgufType::kU64) {
    uint64_t number = 0;
    std::copy_n(value.payload.data(), sizeof(number), reinterpret_cast<std::byte*>(&number));
    return number;
  }
  const int64_t number = GgufIntArray(value)[0];
  if (number < 0) return std::nullopt;
  return static_cast<uint64_t>(number);
}

template <typename Array>
std::optional<Array> to_array(const GgufValue& value, bool element_fits) {
  if (value.type != GgufType::kArray || !element_fits) return std::nullopt;
  return Array(value);
}

}  // namespace

Result<Gguf> Gguf::open(const std::string& path) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return file.error();
  Result<Gguf> gguf = parse(file.value().bytes(), path);
  if (gguf.ok()) gguf.value().file_ = std::move(file).value();
  return gguf;
}

Result<Gguf> Gguf::parse(std::span<const std::byte> bytes, std::string name) {
  try {
    Gguf gguf;
    gguf.contents_ = parse_gguf(bytes, name);
    gguf.bytes_ = bytes;
    gguf.name_ = std::move(name);
    return gguf;
  } catch (const Error& error) {
    return error;
  }
}

const GgufValue* Gguf::find(std::string_view key) const {
  const GgufEntry* entry =
      find_by_name(contents_.metadata, contents_.metadata_by_key, &GgufEntry::key, key);
  return entry != nullptr ? &entry->value : nullptr;
}

template <typename T, typename Convert>
std::optional<T> Gguf::find_as(std::string_view key, std::string_view expected,
                               Convert convert) const {
  const GgufValue* value = find(key);
  if (value == nullptr) return std::nullopt;
  std::optional<T> converted = convert(*value);
  if (!converted) {
    throw Error(
        ErrorCode::kParse,
        fmt::format("metadata {} is {}, must be {}", quoted(key), found_text(*value), expected),
        name_);
  }
  return converted;
}

template <typename T>
T Gguf::required(std::string_view key, std::optional<T> value) const {
  if (!value) {
    throw Error(ErrorCode::kNotFound, fmt::format("metadata {} is missing", quoted(key)), name_);
  }
  return *std::move(value);
}

std::optional<uint64_t> Gguf::find_u64(std::string_view key) const {
  return find_as<uint64_t>(key, "a non-negative integer", to_u64);
}

std::optional<float> Gguf::find_f32(std::string_view key) const {
  return find_as<float>(key, "a float", [](const GgufValue& value) -> std::optional<float> {
    if (!is_float(value.type)) return std::nullopt;
    return GgufFloatArray(value)[0];
  });
}

std::optional<bool> Gguf::find_bool(std::string_view key) const {
  return find_as<bool>(key, "a bool", [](const GgufValue& value) -> std::optional<bool> {
    if (value.type != GgufType::kBool) return std::nullopt;
    return GgufIntArray(value)[0] != 0;
  });
}

std::optional<std::string_view> Gguf::find_string(std::string_view key) const {
  return find_as<std::string_view>(
      key, "a string", [](const GgufValue& value) -> std::optional<std::string_view> {
        if (value.type != GgufType::kString) return std::nullopt;
        return std::string_view(reinterpret_cast<const char*>(value.payload.data()),
                                value.payload.size());
      });
}

std::optional<GgufStringArray> Gguf::find_strings(std::string_view key) const {
  return find_as<GgufStringArray>(key, "an array of strings", [](const GgufValue& value) {
    return to_array<GgufStringArray>(value, value.element == GgufType::kString);
  });
}

std::optional<GgufIntArray> Gguf::find_ints(std::string_view key) const {
  return find_as<GgufIntArray>(key, "an array of integers", [](const GgufValue& value) {
    return to_array<GgufIntArray>(value,
                                  is_integer(value.element) || value.element == GgufType::kBool);
  });
}

std::optional<GgufFloatArray> Gguf::find_floats(std::string_view key) const {
  return find_as<GgufFloatArray>(key, "an array of numbers", [](const GgufValue& value) {
    return to_array<GgufFloatArray>(value, value.element != GgufType::kString);
  });
}

uint64_t Gguf::get_u64(std::string_view key) const { return required(key, find_u64(key)); }
float Gguf::get_f32(std::string_view key) const { return required(key, find_f32(key)); }
bool Gguf::get_bool(std::string_view key) const { return required(key, find_bool(key)); }
std::string_view Gguf::get_string(std::string_view key) const {
  return required(key, find_string(key));
}
GgufStringArray Gguf::get_strings(std::string_view key) const {
  return required(key, find_strings(key));
}
GgufIntArray Gguf::get_ints(std::string_view key) const { return required(key, find_ints(key)); }
GgufFloatArray Gguf::get_floats(std::string_view key) const {
  return required(key, find_floats(key));
}

const GgufTensorInfo* Gguf::find_tensor_info(std::string_view name) const {
  return find_by_name(contents_.tensors, contents_.tensors_by_name, &GgufTensorInfo::name, name);
}

DType Gguf::require_dtype(const GgufTensorInfo& info) const {
  if (!info.type->dtype) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("unsupported tensor type {} of tensor {}, supported are F32, F16, BF16 "
                            "and Q8_0",
                            info.type->name, quoted(info.name)),
                name_);
  }
  return *info.type->dtype;
}

std::optional<GgufTensor> Gguf::find_tensor(std::string_view name) const {
  const GgufTensorInfo* info = find_tensor_info(name);
  if (info == nullptr) return std::nullopt;
  return GgufTensor{info->name, require_dtype(*info),         info->dimensions,
                    info->ne,   bytes_.data() + info->offset, static_cast<size_t>(info->bytes)};
}

GgufTensor Gguf::tensor(std::string_view name) const {
  const std::optional<GgufTensor> tensor = find_tensor(name);
  if (!tensor) {
    throw Error(ErrorCode::kNotFound, fmt::format("tensor {} is missing", quoted(name)), name_);
  }
  return *tensor;
}

void Gguf::require_supported_types() const {
  for (const GgufTensorInfo& info : contents_.tensors) require_dtype(info);
}

void Gguf::prefetch() const {
  if (!file_) return;
  for (const GgufTensorInfo& info : contents_.tensors) {
    file_->prefetch(static_cast<size_t>(info.offset), static_cast<size_t>(info.bytes));
  }
}

}  // namespace freekv
