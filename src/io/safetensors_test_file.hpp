// Builds safetensors files in memory, good and hostile, for tests and fuzzing corpora.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace freekv {

/// Any header with any data; the length field counts the header unless `claimed` says otherwise.
inline std::string safetensors_bytes(std::string_view header, std::string_view data,
                                     uint64_t claimed = UINT64_MAX) {
  const uint64_t length = claimed == UINT64_MAX ? header.size() : claimed;
  std::string bytes(reinterpret_cast<const char*>(&length), sizeof(length));
  bytes += header;
  bytes += data;
  return bytes;
}

/// "name":{"dtype":...,"shape":[...],"data_offsets":[begin,end]}
inline std::string safetensors_entry(std::string_view name, std::string_view dtype,
                                     std::string_view shape, uint64_t begin, uint64_t end) {
  return fmt::format(R"("{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", name, dtype,
                     shape, begin, end);
}

inline std::string safetensors_header(const std::vector<std::string>& entries) {
  return fmt::format("{{{}}}", fmt::join(entries, ","));
}

}  // namespace freekv
