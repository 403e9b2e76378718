// Results of many samples brought together: one cell for each suite, context, method and setting.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "eval/result_row.hpp"
#include "eval/statistics.hpp"

namespace freekv::eval {

struct Cell {
  ResultRow identity;  // of its first row; sample and seed are those of this row only
  int64_t samples = 0;
  Estimate score;  // over samples
  Estimate exact;
  std::optional<double> kl;               // mean per decode step, nats
  std::optional<double> agreement;        // share of decode steps with dense attention's top token
  std::optional<double> hit_rate;         // of selected pages
  std::optional<double> correction_rate;  // of drift tests
  std::vector<double> correction_by_layer;  // one for each layer; empty without drift tests
  std::optional<double> lost_mass;          // share of attention, as the policy estimates it
  std::optional<double> pages_before;       // recalled per KV head and step, attention waiting
  std::optional<double> pages_after;        // recalled for the next step
  std::optional<double> bytes_before;       // the same as bytes
  std::optional<double> bytes_after;
  double decode_ms = 0;         // per decode step
  double generated_tokens = 0;  // per sample
  MemoryStats memory;           // most of any sample
};

/// Cells in the order in which suites, contexts and policies appear; equal rows count once.
std::vector<Cell> make_cells(const std::vector<ResultRow>& rows);

/// "freekv:tau=0.9 B=512 p=32": what is told apart within one suite and context.
std::string method_label(const ResultRow& row);

}  // namespace freekv::eval
