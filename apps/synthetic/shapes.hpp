// Sizes of known models, from their published configurations.
#pragma once

#include <string>

#include "backends/device_bench.hpp"

namespace freekv::app {

/// With bf16 KV in pages of 32. Throws Error(kInvalidArgument) listing the names there are.
SyntheticShape find_shape(const std::string& name);
/// "llama-3.1-8b, qwen2.5-7b, ...".
std::string shape_names();

}  // namespace freekv::app
