// The header parser behind Safetensors::parse.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "io/safetensors.hpp"

namespace freekv {

/// Checks a whole file and returns its tensors, names ascending. Throws Error(kParse or
/// kUnsupported) with one line that names `source`, the tensor, the field and both values.
std::vector<SafetensorsInfo> parse_safetensors(std::span<const std::byte> bytes,
                                               const std::string& source);

}  // namespace freekv
