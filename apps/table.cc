#include "table.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace freekv::app {

std::string Table::format() const {
  std::vector<size_t> widths(rows_.front().size(), 0);
  for (const auto& row : rows_) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  std::string text;
  for (size_t r = 0; r < rows_.size(); ++r) {
    for (size_t c = 0; c < rows_[r].size(); ++c) {
      text += c == 0 ? fmt::format("{:<{}}", rows_[r][c], widths[c])
                     : fmt::format("  {:>{}}", rows_[r][c], widths[c]);
    }
    text += '\n';
    if (r == 0) {
      size_t total = 0;
      for (size_t width : widths) total += width + 2;
      text += std::string(total - 2, '-') + '\n';
    }
  }
  return text;
}

}  // namespace freekv::app
