// freekv report: results of freekv eval as tables, one HTML page and SVG plots.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "commands.hpp"
#include "eval/report.hpp"
#include "eval/result_log.hpp"
#include "freekv/error.hpp"
#include "table.hpp"

namespace freekv::app {
namespace {

struct ReportOptions {
  std::vector<std::string> files;
  std::string html;
  std::string svg;
  bool markdown = false;
};

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::trunc | std::ios::binary);
  file << text;
  file.close();
  if (!file) throw Error(ErrorCode::kIo, "cannot be written", path);
}

void print(const std::vector<eval::ReportTable>& tables, bool as_markdown) {
  for (const eval::ReportTable& report : tables) {
    if (as_markdown) {
      fmt::print("**{}**\n\n{}\n", report.title, eval::markdown(report));
      continue;
    }
    Table table(report.header);
    for (const auto& row : report.rows) table.add(row);
    fmt::print("{}\n{}\n", report.title, table.format());
  }
  fmt::print("{}\n", eval::report_legend());
}

void report(const ReportOptions& options) {
  std::vector<eval::ResultRow> rows;
  for (const std::string& path : options.files) {
    for (auto& row : eval::read_results(path)) rows.push_back(std::move(row));
  }
  const std::vector<eval::Cell> cells = eval::make_cells(rows);
  const auto tables = eval::report_tables(cells);
  if (!options.html.empty() || !options.svg.empty()) {
    const auto plots = eval::report_plots(cells);
    if (!options.html.empty()) {
      write_file(options.html, eval::html_page("Accuracy of " + rows.front().model, tables, plots));
    }
    if (!options.svg.empty()) {
      std::error_code failed;
      std::filesystem::create_directories(options.svg, failed);
      if (failed) throw Error(ErrorCode::kIo, failed.message(), options.svg);
      for (const auto& plot : plots) {
        write_file((std::filesystem::path(options.svg) / (plot.name + ".svg")).string(), plot.svg);
      }
    }
  }
  print(tables, options.markdown);
}

}  // namespace

void add_report(CLI::App& app) {
  auto* command = app.add_subcommand("report", "Tables and plots of what freekv eval wrote");
  auto options = std::make_shared<ReportOptions>();
  command->add_option("results", options->files, "files of freekv eval --out")->required();
  command->add_option("--html", options->html, "also write one page with all tables and plots");
  command->add_option("--svg", options->svg, "also write every plot into this folder");
  command->add_flag("--markdown", options->markdown, "tables as Markdown");
  command->callback([options] { report(*options); });
}

}  // namespace freekv::app
