#include "eval/result_row.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "eval/records.hpp"

namespace freekv::eval {
namespace {

using nlohmann::ordered_json;

/// Calls visit(name, member) for everything that is stored; reading and writing share the list.
template <typename Row, typename Visit>
void for_each_identity(Row& row, Visit&& visit) {
  visit("model", row.model);
  visit("suite", row.suite);
  visit("settings", row.settings);
  visit("format", row.format);
  visit("sampling", row.sampling);
  visit("context", row.context);
  visit("sample", row.sample);
  visit("seed", row.seed);
  visit("policy", row.policy);
  visit("budget", row.budget);
  visit("sink", row.sink);
  visit("window", row.window);
  visit("page", row.page);
  visit("kv_type", row.kv_type);
  visit("backend", row.backend);
  visit("answer_limit", row.answer_limit);
  visit("repeats", row.repeats);
}

template <typename Row, typename Visit>
void for_each_outcome(Row& row, Visit&& visit) {
  visit("id", row.id);
  visit("prompt_tokens", row.prompt_tokens);
  visit("score", row.score);
  visit("exact", row.exact);
  visit("kl_sum", row.agreement.kl_sum);
  visit("compared", row.agreement.compared);
  visit("agreed", row.agreement.agreed);
  visit("generated_tokens", row.cost.generated_tokens);
  visit("decode_steps", row.cost.decode_steps);
  visit("read_s", row.read_seconds);
  visit("prefill_s", row.cost.prefill_seconds);
  visit("decode_s", row.cost.decode_seconds);
  auto& stats = row.cost.stats;
  visit("pages_selected", stats.pages_selected);
  visit("hits", stats.hits);
  visit("misses_before", stats.misses_before);
  visit("misses_after", stats.misses_after);
  visit("bytes_recalled", stats.bytes_recalled);
  visit("bytes_offloaded", stats.bytes_offloaded);
  visit("selections", stats.selections);
  visit("corrections_tested", stats.corrections_tested);
  visit("drifted_by_layer", stats.drifted_by_layer);
  visit("lost_mass_sum", stats.lost_mass_sum);
  visit("lost_mass_count", stats.lost_mass_count);
  visit("wait_ns", stats.wait_ns);
  visit("layers", row.layers);
  visit("dense_layers", row.dense_layers);
  visit("fast_kv_bytes", row.cost.memory.fast_kv_bytes);
  visit("slow_kv_bytes", row.cost.memory.slow_kv_bytes);
  visit("sketch_bytes", row.cost.memory.sketch_bytes);
  visit("scores", row.scores);
  visit("answers", row.answers);
}

// The library's own conversions would take true for 1 and 1.5 for 1.
bool holds(const nlohmann::json& value, const std::string&) { return value.is_string(); }
bool holds(const nlohmann::json& value, double) { return value.is_number(); }
bool holds(const nlohmann::json& value, uint64_t) { return value.is_number_unsigned(); }
template <typename T>
bool holds(const nlohmann::json& value, const std::vector<T>&) {
  return value.is_array() &&
         std::all_of(value.begin(), value.end(), [](const auto& item) { return holds(item, T()); });
}

/// Reads one field into a member of any stored type.
struct Reader {
  const Record& record;

  void operator()(const char* name, std::string& out) const { out = record.text(name); }
  void operator()(const char* name, int64_t& out) const {
    out = record.integer(name, 0, INT64_MAX);
  }
  void operator()(const char* name, uint64_t& out) const {
    if (!record.field(name).is_number_unsigned()) record.refuse(name, "a whole number");
    out = record.field(name).get<uint64_t>();
  }
  void operator()(const char* name, double& out) const {
    if (!record.field(name).is_number()) record.refuse(name, "a number");
    out = record.field(name).get<double>();
  }
  template <typename T>
  void operator()(const char* name, std::vector<T>& out) const {
    const auto& value = record.field(name);
    if (!holds(value, out)) record.refuse(name, "a list as this program writes it");
    out = value.template get<std::vector<T>>();
  }
};

}  // namespace

std::string ResultRow::key() const {
  std::string text;
  for_each_identity(*this,
                    [&](const char*, const auto& value) { text += fmt::format("{}|", value); });
  return text;
}

std::string ResultRow::json() const {
  ordered_json object;
  const auto write = [&](const char* name, const auto& value) { object[name] = value; };
  for_each_identity(*this, write);
  for_each_outcome(*this, write);
  return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

ResultRow parse_row(std::string_view line, const std::string& path, size_t number) {
  const Record record = parse_line(line, path, number);
  ResultRow row;
  for_each_identity(row, Reader{record});
  for_each_outcome(row, Reader{record});
  const auto share = [&](const char* name, double value) {
    if (!(value >= 0 && value <= 1)) record.refuse(name, "a number from 0 to 1");
  };
  share("score", row.score);
  share("exact", row.exact);
  if (row.agreement.agreed > row.agreement.compared) {
    record.refuse("agreed", fmt::format("at most the {} of \"compared\"", row.agreement.compared));
  }
  if (!(row.agreement.kl_sum >= 0)) record.refuse("kl_sum", "0 or more");
  if (row.cost.stats.drifted_by_layer.size() > static_cast<size_t>(row.layers)) {
    record.refuse("drifted_by_layer", fmt::format("a list of at most {} numbers", row.layers));
  }
  return row;
}

}  // namespace freekv::eval
