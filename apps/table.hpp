// Plain-text tables with aligned columns.
#pragma once

#include <string>
#include <vector>

namespace freekv::app {

class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }

  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// First column to the left, all others to the right; a rule under the header.
  std::string format() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace freekv::app
