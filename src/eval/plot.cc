#include "eval/plot.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

namespace freekv::eval {
namespace {

constexpr double kWidth = 720, kPlotHeight = 300;
constexpr double kTop = 40, kRight = 20, kRowHeight = 22, kCharacter = 6.6;
constexpr int kTicks = 5;

/// Colours told apart by people with colour-blindness too (Okabe and Ito, 2008); after the last
/// they come again with dashes.
constexpr std::array<const char*, 7> kColours = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                 "#e69f00", "#56b4e9", "#000000"};

std::string begin(double height, const std::string& title) {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0f} {:.0f}\" width=\"{:.0f}\" "
      "height=\"{:.0f}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n"
      "<title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
      "<text x=\"10\" y=\"22\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
      kWidth, height, kWidth, height, escaped(title), escaped(title));
}

std::string text(double x, double y, const char* anchor, std::string_view words) {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor,
                     escaped(words));
}

std::string line(double x1, double y1, double x2, double y2, const char* colour, double width) {
  return fmt::format(
      "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
      "stroke-width=\"{}\"/>\n",
      x1, y1, x2, y2, colour, width);
}

std::string dot(double x, double y, const char* colour, const std::string& hint) {
  return fmt::format(
      "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"4\" fill=\"{}\"><title>{}</title></circle>\n", x, y,
      colour, escaped(hint));
}

const char* colour_of(size_t series) { return kColours[series % kColours.size()]; }
const char* dashes_of(size_t series) {
  constexpr std::array<const char*, 3> kDashes = {"none", "6 3", "2 3"};
  return kDashes[series / kColours.size() % kDashes.size()];
}

template <typename Labelled>
double label_width(const std::vector<Labelled>& labelled) {
  size_t longest = 0;
  for (const auto& each : labelled) longest = std::max(longest, each.label.size());
  return std::min(0.5 * kWidth, kCharacter * static_cast<double>(longest));
}

}  // namespace

std::string escaped(std::string_view text) {
  std::string result;
  for (char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        // Control characters are not allowed in SVG, whatever a file says.
        result += static_cast<unsigned char>(c) < 0x20 && c != '\n' ? ' ' : c;
    }
  }
  return result;
}

std::string svg(const DotPlot& plot) {
  const double left = label_width(plot.rows) + 24;
  const double bottom = kTop + kRowHeight * static_cast<double>(plot.rows.size());
  const auto x_of = [&](double value) {
    return left + std::clamp(value, 0.0, 1.0) * (kWidth - kRight - left);
  };
  std::string out = begin(bottom + 44, plot.title);
  for (int tick = 0; tick <= kTicks; ++tick) {
    const double value = static_cast<double>(tick) / kTicks;
    out += line(x_of(value), kTop, x_of(value), bottom, "#dddddd", 1);
    out += text(x_of(value), bottom + 16, "middle", fmt::format("{:.1f}", value));
  }
  for (size_t i = 0; i < plot.rows.size(); ++i) {
    const auto& row = plot.rows[i];
    const double y = kTop + kRowHeight * (static_cast<double>(i) + 0.5);
    out += text(left - 10, y + 4, "end", row.label);
    out += line(x_of(row.low), y, x_of(row.high), y, kColours[0], 2);
    out += dot(x_of(row.value), y, kColours[0],
               fmt::format("{}: {:.3f} [{:.3f}, {:.3f}]", row.label, row.value, row.low, row.high));
  }
  out += text((left + kWidth - kRight) / 2, bottom + 36, "middle", plot.axis);
  return out + "</svg>\n";
}

std::string svg(const LinePlot& plot) {
  constexpr double left = 60;
  // The legend stands to the right; the lines take what it leaves.
  const double right = kWidth - kRight - label_width(plot.series) - 40;
  const double bottom = kTop + kPlotHeight;
  const double needed = kTop + 18 * static_cast<double>(plot.series.size());
  std::set<double> xs;
  double top_value = 1;
  for (const auto& series : plot.series) {
    for (const auto& point : series.points) {
      xs.insert(point.x);
      top_value = std::max(top_value, point.y);
    }
  }
  const auto scaled = [&](double x) { return plot.log_x ? std::log2(x) : x; };
  const double first = xs.empty() ? 0 : scaled(*xs.begin());
  const double span = xs.size() < 2 ? 1 : scaled(*xs.rbegin()) - first;
  const auto x_of = [&](double x) { return left + (scaled(x) - first) / span * (right - left); };
  const auto y_of = [&](double y) {
    return bottom - std::clamp(y / top_value, 0.0, 1.0) * kPlotHeight;
  };

  std::string out = begin(std::max(bottom, needed) + 44, plot.title);
  for (int tick = 0; tick <= kTicks; ++tick) {
    const double value = top_value * tick / kTicks;
    out += line(left, y_of(value), right, y_of(value), "#dddddd", 1);
    out += text(left - 6, y_of(value) + 4, "end", fmt::format("{:.2g}", value));
  }
  // Labels under the axis, as many as have room.
  double last = -1e9;
  for (double x : xs) {
    const std::string label = fmt::format("{:g}", x);
    if (x_of(x) - last < kCharacter * static_cast<double>(label.size() + 2)) continue;
    last = x_of(x);
    out += line(x_of(x), bottom, x_of(x), bottom + 4, "#444444", 1);
    out += text(x_of(x), bottom + 18, "middle", label);
  }
  for (size_t s = 0; s < plot.series.size(); ++s) {
    const auto& series = plot.series[s];
    std::string path;
    for (const auto& point : series.points) {
      path += fmt::format("{:.1f},{:.1f} ", x_of(point.x), y_of(point.y));
      if (point.high > point.low) {
        out +=
            line(x_of(point.x), y_of(point.low), x_of(point.x), y_of(point.high), colour_of(s), 1);
      }
      out += dot(x_of(point.x), y_of(point.y), colour_of(s),
                 fmt::format("{}: {:g}, {:.3f}", series.label, point.x, point.y));
    }
    out += fmt::format(
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" "
        "stroke-dasharray=\"{}\"/>\n",
        path, colour_of(s), dashes_of(s));
    const double y = kTop + 18 * static_cast<double>(s) + 8;
    out += fmt::format(
        "<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" "
        "stroke-width=\"2\" stroke-dasharray=\"{}\"/>\n",
        right + 12, y, right + 34, y, colour_of(s), dashes_of(s));
    out += text(right + 40, y + 4, "start", series.label);
  }
  out += text((left + right) / 2, bottom + 36, "middle", plot.x_axis);
  out += text(left - 40, kTop - 8, "start", plot.y_axis);
  return out + "</svg>\n";
}

}  // namespace freekv::eval
