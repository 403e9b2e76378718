#include "io/byte_reader.hpp"

#include <fmt/format.h>

#include "freekv/error.hpp"
#include "io/quote.hpp"

namespace freekv {

std::string Field::text() const {
  std::string text(what);
  if (!record.empty()) text += fmt::format(" of {} {}", record, index);
  if (!name.empty()) text += fmt::format(" {}", quoted(name));
  return text;
}

std::span<const std::byte> ByteReader::take(uint64_t length, const Field& field) {
  if (length > remaining()) {
    throw Error(ErrorCode::kParse,
                fmt::format("{} takes {} bytes at offset {}, {} are left in the file", field.text(),
                            length, position_, remaining()),
                std::string(source_));
  }
  const auto taken = bytes_.subspan(position_, static_cast<size_t>(length));
  position_ += static_cast<size_t>(length);
  return taken;
}

std::string_view ByteReader::read_string(const Field& field) {
  const auto length = read<uint64_t>(field);
  const auto characters = take(length, field);
  return {reinterpret_cast<const char*>(characters.data()), characters.size()};
}

}  // namespace freekv
