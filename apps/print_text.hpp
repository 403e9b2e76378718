// A model's text on standard output, as it comes.
#pragma once

#include <string_view>

namespace freekv::app {

/// As it is into files and pipes; on a terminal with its control characters made visible.
void print_text(std::string_view text);

}  // namespace freekv::app
