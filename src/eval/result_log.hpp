// A results file that a run appends to, and goes on from after an interruption.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "eval/result_row.hpp"

namespace freekv::eval {

class ResultLog {
 public:
  /// Opens or makes the file, reads what is done and cuts off a last line that has no end. Throws
  /// Error naming file, line and field of a line that is no result, and when another process is
  /// appending to the file.
  explicit ResultLog(const std::string& path);
  ~ResultLog();
  ResultLog(const ResultLog&) = delete;
  ResultLog& operator=(const ResultLog&) = delete;

  bool has(const ResultRow& row) const { return done_.contains(row.key()); }
  size_t size() const { return done_.size(); }
  /// Bytes of an unfinished line that were cut off.
  size_t cut_bytes() const { return cut_bytes_; }
  /// The row is in the file when this returns, whole.
  void append(const ResultRow& row);

 private:
  std::string path_;
  int file_ = -1;
  size_t cut_bytes_ = 0;
  std::set<std::string> done_;
};

/// All rows of a finished file. Throws Error naming file, line and field.
std::vector<ResultRow> read_results(const std::string& path);

}  // namespace freekv::eval
