// Rows, the file they go to, cells and reports.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "eval/plot.hpp"
#include "eval/report.hpp"
#include "eval/result_log.hpp"
#include "freekv/error.hpp"
#include "support/scratch_folder.hpp"

namespace freekv::eval {
namespace {

using testing::HasSubstr;

ResultRow sample_row(int64_t sample = 0, const std::string& policy = "freekv",
                     int64_t budget = 512) {
  ResultRow row;
  row.model = "m";
  row.suite = "chain";
  row.format = "chat";
  row.sampling = "greedy";
  row.context = 2048;
  row.sample = sample;
  row.policy = policy;
  row.budget = budget;
  row.page = 32;
  row.id = "0";
  row.score = sample % 2 == 0 ? 1 : 0;
  row.exact = row.score;
  row.answers = {{"a \"quoted\"\nanswer \xff"}};
  row.scores = {{row.score}};
  row.agreement = {.kl_sum = 0.5, .compared = 10, .agreed = 9};
  row.cost.decode_steps = 10;
  row.cost.decode_seconds = 0.02;
  row.cost.generated_tokens = 11;
  row.cost.stats.pages_selected = 100;
  row.cost.stats.hits = 70;
  row.cost.stats.misses_before = 10;
  row.cost.stats.misses_after = 20;
  row.cost.stats.bytes_recalled = 30 * 1024;
  row.cost.stats.selections = 20;
  row.cost.stats.corrections_tested = 16;
  row.cost.stats.drifted_by_layer = {0, 2, 8};
  row.cost.stats.lost_mass_sum = 2;
  row.cost.stats.lost_mass_count = 8;
  row.layers = 3;
  row.dense_layers = 1;
  return row;
}

std::string read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

class ResultLogTest : public testing::Test {
 protected:
  testing_support::ScratchFolder folder_;
  const std::string path_ = folder_.file("results.jsonl");
};

TEST(ResultRow, SurvivesItsJson) {
  const ResultRow row = sample_row();
  const ResultRow back = parse_row(row.json(), "file", 1);
  EXPECT_EQ(back.key(), row.key());
  EXPECT_EQ(back.json(), row.json());
  EXPECT_EQ(back.answers[0][0], "a \"quoted\"\nanswer \xEF\xBF\xBD");
  EXPECT_EQ(back.agreement.agreed, 9);
  EXPECT_EQ(back.cost.stats.drifted_by_layer, row.cost.stats.drifted_by_layer);
}

TEST(ResultRow, KeyTellsSettingsApart) {
  const ResultRow row = sample_row();
  ResultRow other = row;
  other.score = 0.5;
  EXPECT_EQ(other.key(), row.key());
  other.budget = 256;
  EXPECT_NE(other.key(), row.key());
}

TEST(ResultRow, MalformedLinesNameFileLineAndField) {
  const auto message = [](std::string line, const std::string& from, const std::string& to) {
    const size_t at = line.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    line.replace(at, from.size(), to);
    try {
      parse_row(line, "r.jsonl", 7);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  const std::string good = sample_row().json();
  EXPECT_THAT(message(good, "\"score\":1.0", "\"score\":2.0"),
              HasSubstr("r.jsonl: line 7: field \"score\" is 2.0, must be a number from 0 to 1"));
  EXPECT_THAT(message(good, "\"score\":1.0", "\"score\":null"), HasSubstr("\"score\" is null"));
  EXPECT_THAT(message(good, "\"score\":1.0,", ""), HasSubstr("field \"score\" is missing"));
  EXPECT_THAT(message(good, "\"hits\":70", "\"hits\":-1"), HasSubstr("\"hits\" is -1"));
  EXPECT_THAT(message(good, "\"hits\":70", "\"hits\":7.5"), HasSubstr("\"hits\" is 7.5"));
  EXPECT_THAT(message(good, "\"context\":2048", "\"context\":\"2K\""), HasSubstr("\"context\""));
  EXPECT_THAT(message(good, "[0,2,8]", "[0,true,8]"), HasSubstr("\"drifted_by_layer\""));
  EXPECT_THAT(message(good, "[0,2,8]", "[0,2,8,9]"), HasSubstr("at most 3"));
  EXPECT_THAT(message(good, "[[1.0]]", "[1.0]"), HasSubstr("\"scores\""));
  EXPECT_THAT(message(good, "\"agreed\":9", "\"agreed\":11"), HasSubstr("\"agreed\" is 11"));
  EXPECT_THAT(message(good, "{", ""), HasSubstr("r.jsonl: line 7: is not a JSON object"));
}

TEST(ResultRow, NoDamagedLineDoesMoreThanThrow) {
  const std::string good = sample_row().json();
  for (size_t cut = 0; cut < good.size(); ++cut) {
    EXPECT_THROW(parse_row(good.substr(0, cut), "f", 1), Error) << cut;
  }
  for (size_t at = 0; at < good.size(); ++at) {
    for (const char c : {'\0', '"', '[', '-', '9', '\xff'}) {
      std::string damaged = good;
      damaged[at] = c;
      try {
        parse_row(damaged, "f", 1);
      } catch (const Error&) {
        // Refused, as most are.
      }
    }
  }
}

TEST_F(ResultLogTest, GoesOnAfterACutLine) {
  {
    ResultLog log(path_);
    EXPECT_EQ(log.size(), 0u);
    log.append(sample_row(0));
    log.append(sample_row(1));
    EXPECT_TRUE(log.has(sample_row(1)));
  }
  const std::string whole = read(path_);
  const size_t first = whole.find('\n') + 1;
  for (const size_t kept : {whole.size(), whole.size() - 1, first + 20, first, first - 1}) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << whole.substr(0, kept);
    {
      ResultLog log(path_);
      const size_t rows = kept == whole.size() ? 2 : kept >= first ? 1 : 0;
      EXPECT_EQ(log.size(), rows) << kept;
      EXPECT_EQ(log.cut_bytes(), kept - (rows == 2 ? whole.size() : rows == 1 ? first : 0));
      for (int64_t sample : {0, 1}) {
        if (!log.has(sample_row(sample))) log.append(sample_row(sample));
      }
    }
    EXPECT_EQ(read(path_), whole) << kept;
  }
}

TEST_F(ResultLogTest, RefusesOtherFilesAndLeavesThemAlone) {
  std::ofstream(path_) << "notes of mine\nmore";
  try {
    ResultLog log(path_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(path_ + ": line 1: is not a JSON object"));
  }
  EXPECT_EQ(read(path_), "notes of mine\nmore");
  EXPECT_THROW(ResultLog("/nowhere/results.jsonl"), Error);
}

TEST_F(ResultLogTest, IsOneProcessAtATime) {
  ResultLog log(path_);
  EXPECT_THROW(ResultLog second(path_), Error);
}

TEST_F(ResultLogTest, IsReadBack) {
  {
    ResultLog log(path_);
    for (int64_t i = 0; i < 3; ++i) log.append(sample_row(i));
  }
  EXPECT_EQ(read_results(path_).size(), 3u);
  std::ofstream(path_, std::ios::app) << "{\"model\":";
  try {
    read_results(path_);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(path_ + ": line 4"));
  }
}

TEST(Cells, BringSamplesTogether) {
  std::vector<ResultRow> rows;
  for (int64_t i = 0; i < 4; ++i) rows.push_back(sample_row(i));
  rows.push_back(sample_row(0));  // once more: counts once
  rows.push_back(sample_row(0, "freekv", 1024));
  rows.push_back(sample_row(0, "full", 0));
  const auto cells = make_cells(rows);
  ASSERT_EQ(cells.size(), 3u);
  const Cell& cell = cells[0];
  EXPECT_EQ(cell.samples, 4);
  EXPECT_EQ(cell.score.mean, 0.5);
  EXPECT_EQ(cell.score.method, "Wilson");
  EXPECT_DOUBLE_EQ(*cell.kl, 0.05);
  EXPECT_DOUBLE_EQ(*cell.agreement, 0.9);
  EXPECT_DOUBLE_EQ(*cell.hit_rate, 0.7);
  EXPECT_DOUBLE_EQ(*cell.correction_rate, 10.0 / 16);
  // 64 tests over the two layers that retrieve.
  ASSERT_EQ(cell.correction_by_layer.size(), 3u);
  EXPECT_DOUBLE_EQ(cell.correction_by_layer[0], 0);
  EXPECT_DOUBLE_EQ(cell.correction_by_layer[1], 0.25);
  EXPECT_DOUBLE_EQ(cell.correction_by_layer[2], 1);
  EXPECT_DOUBLE_EQ(*cell.pages_before, 0.5);
  EXPECT_DOUBLE_EQ(*cell.pages_after, 1);
  EXPECT_DOUBLE_EQ(*cell.bytes_before, 512);
  EXPECT_DOUBLE_EQ(*cell.bytes_after, 1024);
  EXPECT_DOUBLE_EQ(cell.decode_ms, 2);
  EXPECT_DOUBLE_EQ(*cell.lost_mass, 0.25);
  EXPECT_EQ(cells[1].identity.budget, 1024);
  EXPECT_EQ(method_label(cells[2].identity), "full");
  EXPECT_EQ(method_label(cells[0].identity), "freekv B=512 p=32");
}

TEST(Report, ShowsNumbersAndEscapesText) {
  std::vector<ResultRow> rows = {sample_row(0), sample_row(1), sample_row(0, "freekv", 1024),
                                 sample_row(0, "<b>&\"|", 64)};
  const auto cells = make_cells(rows);
  const auto tables = report_tables(cells);
  ASSERT_EQ(tables.size(), 2u);  // scores, and corrections of each layer
  EXPECT_EQ(tables[0].rows.size(), 3u);
  EXPECT_THAT(tables[0].rows[0], testing::Contains("0.500 [0.095, 0.905]"));
  EXPECT_THAT(tables[0].rows[0], testing::Contains("5.00e-02"));
  EXPECT_THAT(tables[1].rows[0],
              testing::ElementsAre("freekv B=512 p=32", "0.0 %", "25.0 %", "100.0 %"));
  const auto plots = report_plots(cells);
  ASSERT_EQ(plots.size(), 3u);  // scores, over the budget, corrections
  EXPECT_EQ(plots[0].name, "00_chain_2048_tokens");
  const std::string page = html_page("A <title>", tables, plots);
  EXPECT_THAT(page, HasSubstr("A &lt;title&gt;"));
  EXPECT_THAT(page, HasSubstr("&lt;b&gt;&amp;&quot;|"));
  EXPECT_EQ(page.find("<b>"), std::string::npos);
  EXPECT_EQ(page.find("src="), std::string::npos) << "needs no other file";
  EXPECT_THAT(markdown(tables[0]), HasSubstr("| <b>&\"/ B=64 p=32 |"));
}

TEST(Plot, IsSvgForAnyValues) {
  LinePlot plot{"t", "x", "y", true, {}};
  EXPECT_THAT(svg(plot), testing::EndsWith("</svg>\n"));
  plot.series.push_back({"one", {{512, 0.5, 0.4, 0.6}}});
  for (int i = 0; i < 20; ++i) plot.series.push_back({"s", {{1, 2, 2, 2}, {4096, 0, 0, 0}}});
  const std::string text = svg(plot);
  EXPECT_EQ(text.find("nan"), std::string::npos);
  EXPECT_EQ(text.find("inf"), std::string::npos);
  EXPECT_THAT(svg(DotPlot{"t", "a", {{"label", 2, -1, 3}}}), HasSubstr("</svg>"));
}

}  // namespace
}  // namespace freekv::eval
