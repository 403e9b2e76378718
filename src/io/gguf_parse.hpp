// The GGUF parser behind Gguf::open and Gguf::parse.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "io/gguf.hpp"

namespace freekv {

/// Checks and indexes a whole file. Throws Error(kParse or kUnsupported) with one line that names
/// `source`, the field, and both values. Takes time n log n in the bytes of the header.
GgufContents parse_gguf(std::span<const std::byte> bytes, std::string_view source);

}  // namespace freekv
