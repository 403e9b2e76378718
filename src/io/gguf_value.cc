#include "io/gguf_value.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "io/quote.hpp"

namespace freekv {
namespace {

template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

// Calls use(typed value) with element i of a fixed-size type.
template <typename Use>
auto visit_number(GgufType type, const std::byte* data, size_t i, Use use) {
  const std::byte* at = data + i * gguf_type_bytes(type);
  switch (type) {
    case GgufType::kU8:
    case GgufType::kBool:
      return use(load<uint8_t>(at));
    case GgufType::kI8:
      return use(load<int8_t>(at));
    case GgufType::kU16:
      return use(load<uint16_t>(at));
    case GgufType::kI16:
      return use(load<int16_t>(at));
    case GgufType::kU32:
      return use(load<uint32_t>(at));
    case GgufType::kI32:
      return use(load<int32_t>(at));
    case GgufType::kU64:
      return use(load<uint64_t>(at));
    case GgufType::kI64:
      return use(load<int64_t>(at));
    case GgufType::kF32:
      return use(load<float>(at));
    case GgufType::kF64:
      return use(load<double>(at));
    case GgufType::kString:
    case GgufType::kArray:
      break;
  }
  return use(uint8_t{0});
}

std::string format_scalar(GgufType type, const std::byte* data, size_t i) {
  if (type == GgufType::kBool) return load<uint8_t>(data + i) ? "true" : "false";
  return visit_number(type, data, i, [](auto value) {
    if constexpr (sizeof(value) == 1) {
      return fmt::format("{}", static_cast<int>(value));
    } else {
      return fmt::format("{}", value);
    }
  });
}

}  // namespace

std::string_view gguf_type_name(GgufType type) {
  static constexpr std::array<std::string_view, kGgufTypeCount> kNames = {
      "u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
      "bool", "string", "array", "u64", "i64", "f64"};
  const auto i = static_cast<uint32_t>(type);
  return i < kGgufTypeCount ? kNames[i] : "?";
}

size_t gguf_type_bytes(GgufType type) {
  switch (type) {
    case GgufType::kU8:
    case GgufType::kI8:
    case GgufType::kBool:
      return 1;
    case GgufType::kU16:
    case GgufType::kI16:
      return 2;
    case GgufType::kU32:
    case GgufType::kI32:
    case GgufType::kF32:
      return 4;
    case GgufType::kU64:
    case GgufType::kI64:
    case GgufType::kF64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

bool is_float(GgufType type) { return type == GgufType::kF32 || type == GgufType::kF64; }

bool is_integer(GgufType type) {
  return gguf_type_bytes(type) != 0 && type != GgufType::kBool && !is_float(type);
}

std::string_view GgufStringArray::Iterator::operator*() const {
  const auto length = static_cast<size_t>(load<uint64_t>(at_));
  return {reinterpret_cast<const char*>(at_ + sizeof(uint64_t)), length};
}

GgufStringArray::Iterator& GgufStringArray::Iterator::operator++() {
  at_ += sizeof(uint64_t) + static_cast<size_t>(load<uint64_t>(at_));
  return *this;
}

template <typename T>
T GgufNumberArray<T>::operator[](size_t i) const {
  return visit_number(value_.element, value_.payload.data(), i, [](auto value) {
    if constexpr (std::is_same_v<T, int64_t> && std::is_same_v<decltype(value), uint64_t>) {
      return static_cast<int64_t>(
          std::min(value, static_cast<uint64_t>(std::numeric_limits<int64_t>::max())));
    } else {
      return static_cast<T>(value);
    }
  });
}

template class GgufNumberArray<int64_t>;
template class GgufNumberArray<float>;

std::string format_gguf_value(const GgufValue& value, size_t max_elements) {
  if (value.type == GgufType::kString) {
    return quoted({reinterpret_cast<const char*>(value.payload.data()), value.payload.size()});
  }
  if (value.type != GgufType::kArray) return format_scalar(value.type, value.payload.data(), 0);
  std::string text = fmt::format("[{} x {}]", gguf_type_name(value.element), value.count);
  const size_t shown = std::min<uint64_t>(value.count, max_elements);
  if (value.element == GgufType::kString) {
    auto it = GgufStringArray(value).begin();
    for (size_t i = 0; i < shown; ++i, ++it)
      text += fmt::format("{}{}", i == 0 ? " " : ", ", quoted(*it));
  } else {
    for (size_t i = 0; i < shown; ++i) {
      text += fmt::format("{}{}", i == 0 ? " " : ", ",
                          format_scalar(value.element, value.payload.data(), i));
    }
  }
  if (shown < value.count) text += ", ...";
  return text;
}

}  // namespace freekv
