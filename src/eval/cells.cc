#include "eval/cells.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace freekv::eval {
namespace {

std::optional<double> ratio(double part, double whole) {
  return whole > 0 ? std::optional(part / whole) : std::nullopt;
}

/// What the rows of a cell have in common.
std::string cell_key(ResultRow row) {
  row.sample = 0;
  row.seed = 0;
  return row.key();
}

/// Position of each name by first appearance.
template <typename Key>
class Order {
 public:
  size_t operator()(const Key& key) { return order_.emplace(key, order_.size()).first->second; }

 private:
  std::map<Key, size_t> order_;
};

Cell make_cell(const std::vector<const ResultRow*>& rows) {
  Cell cell;
  cell.identity = *rows.front();
  cell.samples = static_cast<int64_t>(rows.size());
  std::vector<double> scores, exact;
  Agreement agreement;
  AnswerCost cost;
  for (const ResultRow* row : rows) {
    scores.push_back(row->score);
    exact.push_back(row->exact);
    agreement.add(row->agreement);
    cost.add(row->cost);
  }
  const RetrievalStats& stats = cost.stats;
  const auto number = [](auto count) { return static_cast<double>(count); };
  cell.score = estimate(scores);
  cell.exact = estimate(exact);
  cell.kl = ratio(agreement.kl_sum, number(agreement.compared));
  cell.agreement = ratio(number(agreement.agreed), number(agreement.compared));
  cell.hit_rate = ratio(number(stats.hits), number(stats.pages_selected));
  cell.correction_rate = ratio(number(stats.drifted()), number(stats.corrections_tested));
  if (stats.lost_mass_count > 0) cell.lost_mass = stats.lost_mass();
  if (stats.corrections_tested > 0) {
    // Every layer that retrieves makes as many tests as any other.
    const int64_t dense = cell.identity.dense_layers;
    const double tests = number(stats.corrections_tested) /
                         number(std::max<int64_t>(1, cell.identity.layers - dense));
    cell.correction_by_layer.assign(static_cast<size_t>(cell.identity.layers), 0);
    for (size_t layer = 0; layer < stats.drifted_by_layer.size(); ++layer) {
      if (layer < cell.correction_by_layer.size()) {
        cell.correction_by_layer[layer] = number(stats.drifted_by_layer[layer]) / tests;
      }
    }
  }
  const double selections = number(stats.selections);
  const double misses = number(stats.misses_before) + number(stats.misses_after);
  cell.pages_before = ratio(number(stats.misses_before), selections);
  cell.pages_after = ratio(number(stats.misses_after), selections);
  // All recalled pages have the same size.
  const double page_bytes = misses > 0 ? number(stats.bytes_recalled) / misses : 0;
  if (cell.pages_before) cell.bytes_before = *cell.pages_before * page_bytes;
  if (cell.pages_after) cell.bytes_after = *cell.pages_after * page_bytes;
  cell.decode_ms = ratio(1e3 * cost.decode_seconds, number(cost.decode_steps)).value_or(0);
  cell.generated_tokens = number(cost.generated_tokens) / number(cell.samples);
  cell.memory = cost.memory;
  return cell;
}

}  // namespace

std::string method_label(const ResultRow& row) {
  std::string label = row.policy;
  if (row.budget > 0) label += fmt::format(" B={} p={}", row.budget, row.page);
  // Answered elsewhere than the prompt was read: its times and memory compare with no other's.
  const size_t plus = row.backend.find('+');
  if (plus != std::string::npos) label += " on " + row.backend.substr(plus + 1);
  return label;
}

std::vector<Cell> make_cells(const std::vector<ResultRow>& rows) {
  std::set<std::string> seen;
  Order<std::string> suites, policies;
  using Place = std::tuple<size_t, int64_t, size_t, int64_t, int64_t, std::string>;
  std::map<Place, std::vector<const ResultRow*>> grouped;
  for (const ResultRow& row : rows) {
    if (!seen.insert(row.key()).second) continue;
    const std::string suite =
        fmt::format("{}|{}|{}|{}|{}", row.model, row.suite, row.settings, row.format, row.sampling);
    grouped[{suites(suite), row.context, policies(row.policy), row.budget, row.page, cell_key(row)}]
        .push_back(&row);
  }
  std::vector<Cell> cells;
  for (const auto& [place, members] : grouped) cells.push_back(make_cell(members));
  return cells;
}

}  // namespace freekv::eval
