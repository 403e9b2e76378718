// Cells as tables and plots, as Markdown and as one HTML page.
#pragma once

#include <string>
#include <vector>

#include "eval/cells.hpp"

namespace freekv::eval {

struct ReportTable {
  std::string title;
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
};

struct ReportPlot {
  std::string name;  // a file name without ending: letters, digits, - and _
  std::string svg;
};

/// For each suite and context the scores of its methods, and the corrections of each layer where a
/// method makes any.
std::vector<ReportTable> report_tables(const std::vector<Cell>& cells);
/// For each suite and context: scores with intervals; scores over the budget where there are
/// several; corrections over layers where there are any.
std::vector<ReportPlot> report_plots(const std::vector<Cell>& cells);

/// What the columns say: the words under every report.
std::string report_legend();

std::string markdown(const ReportTable& table);
/// A page that needs no other file.
std::string html_page(const std::string& title, const std::vector<ReportTable>& tables,
                      const std::vector<ReportPlot>& plots);

}  // namespace freekv::eval
