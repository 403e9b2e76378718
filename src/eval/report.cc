#include "eval/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <map>

#include "eval/plot.hpp"

namespace freekv::eval {
namespace {

std::string percent(const std::optional<double>& share) {
  return share ? fmt::format("{:.1f} %", 100 * *share) : "-";
}

std::string fixed(const std::optional<double>& value, int digits) {
  return value ? fmt::format("{:.{}f}", *value, digits) : "-";
}

std::string kibibytes(const std::optional<double>& bytes) {
  return bytes ? fmt::format("{:.2f}", *bytes / 1024) : "-";
}

std::string mebibytes(uint64_t bytes) {
  return fmt::format("{:.2f}", static_cast<double>(bytes) / 1048576);
}

std::string with_interval(const Estimate& value) {
  return fmt::format("{:.3f} [{:.3f}, {:.3f}]{}", value.mean, value.interval.low,
                     value.interval.high, value.method == "Wilson" ? "" : " b");
}

std::string group_title(const ResultRow& row) {
  std::string title = fmt::format("{}, {} tokens", row.suite, row.context);
  if (row.format != "chat") title += ", " + row.format;
  if (row.sampling != "greedy") title += ", " + row.sampling;
  if (row.repeats > 1) title += fmt::format(", avg@{}", row.repeats);
  return title;
}

/// Everything that makes cells comparable: they differ in the method alone.
std::string group_key(const ResultRow& row) {
  return fmt::format("{}|{}|{}|{}", group_title(row), row.model, row.settings, row.answer_limit);
}

/// Calls use(cells of one suite and context) for each.
void for_each_group(const std::vector<Cell>& cells,
                    const std::function<void(std::span<const Cell>)>& use) {
  for (size_t begin = 0; begin < cells.size();) {
    size_t end = begin + 1;
    while (end < cells.size() &&
           group_key(cells[end].identity) == group_key(cells[begin].identity)) {
      ++end;
    }
    use(std::span(cells).subspan(begin, end - begin));
    begin = end;
  }
}

bool corrects(const Cell& cell) { return !cell.correction_by_layer.empty(); }

std::string file_name(const std::string& title) {
  std::string name;
  for (char c : title) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_';
    if (plain) {
      name += c;
    } else if (!name.empty() && name.back() != '_') {
      name += '_';
    }
  }
  return name.substr(0, 120);
}

ReportTable score_table(std::span<const Cell> group) {
  const ResultRow& first = group.front().identity;
  ReportTable table{group_title(first),
                    {"method", "n", "score [95 %]", "exact [95 %]", "KL", "top-1", "hits",
                     "corrected", "lost mass", "before", "after", "KiB before", "KiB after",
                     "ms/token", "tokens", "fast MiB", "slow MiB", "sketch MiB"},
                    {}};
  for (const Cell& cell : group) {
    table.rows.push_back(
        {method_label(cell.identity), fmt::format("{}", cell.samples), with_interval(cell.score),
         with_interval(cell.exact), cell.kl ? fmt::format("{:.2e}", *cell.kl) : "-",
         percent(cell.agreement), percent(cell.hit_rate), percent(cell.correction_rate),
         fixed(cell.lost_mass, 4), fixed(cell.pages_before, 3), fixed(cell.pages_after, 3),
         kibibytes(cell.bytes_before), kibibytes(cell.bytes_after),
         fmt::format("{:.2f}", cell.decode_ms), fmt::format("{:.1f}", cell.generated_tokens),
         mebibytes(cell.memory.fast_kv_bytes), mebibytes(cell.memory.slow_kv_bytes),
         mebibytes(cell.memory.sketch_bytes)});
  }
  return table;
}

ReportTable layer_table(std::span<const Cell> group) {
  ReportTable table{
      group_title(group.front().identity) + ": corrected heads per layer", {"method"}, {}};
  for (int64_t layer = 0; layer < group.front().identity.layers; ++layer) {
    table.header.push_back(fmt::format("{}", layer));
  }
  for (const Cell& cell : group) {
    if (!corrects(cell)) continue;
    std::vector<std::string> row = {method_label(cell.identity)};
    for (double rate : cell.correction_by_layer) row.push_back(percent(rate));
    row.resize(table.header.size());
    table.rows.push_back(std::move(row));
  }
  return table;
}

DotPlot score_plot(std::span<const Cell> group) {
  DotPlot plot{group_title(group.front().identity), "score, 95 % interval", {}};
  for (const Cell& cell : group) {
    plot.rows.push_back({method_label(cell.identity), cell.score.mean, cell.score.interval.low,
                         cell.score.interval.high});
  }
  return plot;
}

LinePlot budget_plot(std::span<const Cell> group) {
  LinePlot plot{group_title(group.front().identity) + ": score over budget",
                "budget, tokens attended per step",
                "score",
                true,
                {}};
  std::map<std::string, size_t> series;
  for (const Cell& cell : group) {
    const ResultRow& row = cell.identity;
    if (row.budget == 0) continue;
    const std::string label = fmt::format("{} p={}", row.policy, row.page);
    const auto [found, added] = series.emplace(label, plot.series.size());
    if (added) plot.series.push_back({label, {}});
    plot.series[found->second].points.push_back({static_cast<double>(row.budget), cell.score.mean,
                                                 cell.score.interval.low,
                                                 cell.score.interval.high});
  }
  for (auto& each : plot.series) {
    std::sort(each.points.begin(), each.points.end(),
              [](const auto& a, const auto& b) { return a.x < b.x; });
  }
  return plot;
}

LinePlot layer_plot(std::span<const Cell> group) {
  LinePlot plot{group_title(group.front().identity) + ": corrected heads per layer",
                "layer",
                "share of heads corrected",
                false,
                {}};
  for (const Cell& cell : group) {
    if (!corrects(cell)) continue;
    LinePlot::Series series{method_label(cell.identity), {}};
    for (size_t layer = 0; layer < cell.correction_by_layer.size(); ++layer) {
      const double rate = cell.correction_by_layer[layer];
      series.points.push_back({static_cast<double>(layer), rate, rate, rate});
    }
    plot.series.push_back(std::move(series));
  }
  return plot;
}

}  // namespace

std::vector<ReportTable> report_tables(const std::vector<Cell>& cells) {
  std::vector<ReportTable> tables;
  for_each_group(cells, [&](std::span<const Cell> group) {
    tables.push_back(score_table(group));
    if (std::any_of(group.begin(), group.end(), corrects)) tables.push_back(layer_table(group));
  });
  return tables;
}

std::vector<ReportPlot> report_plots(const std::vector<Cell>& cells) {
  std::vector<ReportPlot> plots;
  size_t number = 0;
  const auto add = [&](const std::string& title, const std::string& svg_text) {
    // The number keeps apart what a file name cannot say.
    plots.push_back({fmt::format("{:02}_{}", number, file_name(title)), svg_text});
    ++number;
  };
  for_each_group(cells, [&](std::span<const Cell> group) {
    const DotPlot scores = score_plot(group);
    add(scores.title, svg(scores));
    const LinePlot budgets = budget_plot(group);
    if (std::any_of(budgets.series.begin(), budgets.series.end(),
                    [](const auto& series) { return series.points.size() > 1; })) {
      add(budgets.title, svg(budgets));
    }
    const LinePlot layers = layer_plot(group);
    if (!layers.series.empty()) add(layers.title, svg(layers));
  });
  return plots;
}

std::string report_legend() {
  return "n: samples. score, exact: mean over samples with a 95 % interval, Wilson's where every "
         "sample scores 0 or 1, otherwise (marked b) the percentile bootstrap over samples, 2,000 "
         "resamples, fixed seed. KL: mean KL(full || method) in nats per decode step along the "
         "answer of full, whose first token (exact for all) does not count; top-1: share of these "
         "steps with the same likeliest token. hits: share of selected pages already in fast "
         "memory; corrected: share of heads that failed their drift test; lost mass: the mean "
         "share of attention that a head missed in a step, as the policy estimates it; before, "
         "after: pages "
         "recalled per KV head and selection while attention waits and for the next step, then the "
         "same in KiB. tokens: generated per sample. fast, slow, sketch: memory of one sequence.";
}

std::string markdown(const ReportTable& table) {
  const auto row_text = [](const std::vector<std::string>& cells) {
    std::string text = "|";
    for (std::string cell : cells) {
      std::replace(cell.begin(), cell.end(), '|', '/');
      text += " " + cell + " |";
    }
    return text + "\n";
  };
  std::string text = row_text(table.header) + "|";
  for (size_t i = 0; i < table.header.size(); ++i) text += i == 0 ? "---|" : "---:|";
  text += '\n';
  for (const auto& row : table.rows) text += row_text(row);
  return text;
}

std::string html_page(const std::string& title, const std::vector<ReportTable>& tables,
                      const std::vector<ReportPlot>& plots) {
  std::string page = fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{0}</title>\n"
      "<style>\nbody{{font-family:sans-serif;margin:2em;max-width:100em;background:#fff;"
      "color:#111}}\ntable{{border-collapse:collapse;font-size:.85em;"
      "font-variant-numeric:tabular-nums}}\nth,td{{padding:.2em .6em;border-bottom:1px solid #ccc;"
      "text-align:right;white-space:nowrap}}\nth:first-child,td:first-child{{text-align:left}}\n"
      "div.wide{{overflow-x:auto}}\nsvg{{max-width:100%;height:auto;margin:1em 0}}\n"
      "p{{max-width:60em}}\n</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
      escaped(title));
  const auto row_html = [](const std::vector<std::string>& cells, const char* tag) {
    std::string text = "<tr>";
    for (const std::string& cell : cells) {
      text += fmt::format("<{0}>{1}</{0}>", tag, escaped(cell));
    }
    return text + "</tr>\n";
  };
  page += fmt::format("<p>{}</p>\n", escaped(report_legend()));
  for (const ReportTable& table : tables) {
    page += fmt::format("<h2>{}</h2>\n<div class=\"wide\"><table>\n", escaped(table.title));
    page += row_html(table.header, "th");
    for (const auto& row : table.rows) page += row_html(row, "td");
    page += "</table></div>\n";
  }
  page += "<h2>Plots</h2>\n";
  for (const ReportPlot& plot : plots) page += plot.svg;
  return page + "</body>\n</html>\n";
}

}  // namespace freekv::eval
