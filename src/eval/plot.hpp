// Two kinds of plots as SVG text: values with intervals, a row each, and lines over a number.
#pragma once

#include <string>
#include <vector>

namespace freekv::eval {

/// Each label with a dot at its value and a line over its interval; the axis goes from 0 to 1.
struct DotPlot {
  struct Row {
    std::string label;
    double value = 0, low = 0, high = 0;
  };
  std::string title;
  std::string axis;
  std::vector<Row> rows;
};

/// Lines through points in order of x. The y axis goes from 0 to 1 unless a point is above.
struct LinePlot {
  struct Point {
    double x = 0, y = 0, low = 0, high = 0;
  };
  struct Series {
    std::string label;
    std::vector<Point> points;
  };
  std::string title;
  std::string x_axis;
  std::string y_axis;
  bool log_x = false;  // x > 0 then
  std::vector<Series> series;
};

std::string svg(const DotPlot& plot);
std::string svg(const LinePlot& plot);

/// Text for HTML, SVG and their attributes.
std::string escaped(std::string_view text);

}  // namespace freekv::eval
