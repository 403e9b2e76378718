// Whole files as bytes.
#pragma once

#include <string>

namespace freekv::app {

/// Any bytes; "-" is standard input. Throws Error naming the file when it is missing, a directory
/// or cannot be read.
std::string read_file(const std::string& path);

}  // namespace freekv::app
