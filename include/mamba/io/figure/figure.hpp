// Line charts as SVG: panels one below the other over a shared x axis, or in a grid.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <mamba/io/figure/axis.hpp>
#include <mamba/io/figure/svg.hpp>

namespace mamba::io {

struct Series {
  struct Extent {
    double x, low, high;
  };

  std::string name;
  std::vector<std::pair<double, double>> points;
  bool marked = false;         // a dot on every point
  std::vector<Extent> band{};  // a shaded area behind the line, such as the smallest to the largest of several runs
};

struct Panel {
  std::string y_label;
  std::vector<Series> series;
  double y_min = 0, y_max = 0;  // from the data unless y_min < y_max and the axis can show both
  std::string x_label{};        // of its column, where it is the lowest; empty: the chart's
};

// Panels of a column share the x axis, those of a row that have the same y label the y axis. One column: each panel has
// its own legend. More: the chart has one, and a name stands for the same line in every panel.
struct LineChart {
  std::string title, x_label;
  std::vector<Panel> panels;  // row after row
  int columns = 1;            // less counts as one
  Scale x_scale = Scale::linear, y_scale = Scale::linear;
  std::string note{};  // small print at the foot

  std::string svg() const;

 private:
  static constexpr double panel_left = 74, panel_right = 24, close = 22, top = 66, bottom = 56;

  bool grid() const { return columns > 1; }
  std::size_t in_a_row() const { return grid() ? static_cast<std::size_t>(columns) : 1; }
  std::size_t column_of(std::size_t p) const { return p % in_a_row(); }
  std::size_t row_of(std::size_t p) const { return p / in_a_row(); }
  double panel_width() const { return !grid() ? 662 : columns == 2 ? 320 : 178; }
  double panel_height() const { return grid() ? 200 : 220; }
  double row_gap() const { return grid() ? 34 : 46; }

  bool same_y_axis(std::size_t p, std::size_t q) const {
    return row_of(p) == row_of(q) && panels[p].y_label == panels[q].y_label;
  }
  // Whether a panel's y axis is the one of its neighbour to the left, and so needs no numbers.
  bool continues_row(std::size_t p) const { return column_of(p) > 0 && same_y_axis(p - 1, p); }

  // The left edge of every column's panels, and the right end of the chart.
  std::vector<double> column_edges() const;
  detail::Axis x_axis(std::size_t column) const;
  detail::Axis y_axis(std::size_t panel) const;
  std::vector<std::string> names() const;
};

namespace detail {

// Colours that stay apart for colour-blind readers (Okabe and Ito), and dashes for those who print: no common divisor,
// so that 42 lines differ.
inline std::string colour_of(std::size_t line) {
  constexpr const char* colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#404040"};
  return colours[line % std::size(colours)];
}
inline std::string stroke_of(std::size_t line) {
  constexpr const char* dashes[] = {"none", "7 3", "2 3", "9 3 2 3", "12 4", "4 4"};
  return "stroke=\"" + colour_of(line) + "\" stroke-width=\"2\" stroke-dasharray=\"" +
         dashes[line % std::size(dashes)] + "\"";
}

// Where a legend's names stand, in rows from (0, 0) on that are at most `width` long.
inline constexpr double legend_row = 18;
inline std::vector<std::pair<double, double>> legend_positions(const std::vector<std::string>& names, double width) {
  std::vector<std::pair<double, double>> positions;
  double x = 0, y = 0;
  for (const std::string& name : names) {
    const double length = 60 + 6.6 * static_cast<double>(name.size());
    if (x > 0 && x + length > width) x = 0, y += legend_row;
    positions.emplace_back(x, y);
    x += length;
  }
  return positions;
}

// Names in rows, where no line runs.
inline void draw_legend(Svg& page, double x, double y, double width, const std::vector<std::string>& names) {
  const auto positions = legend_positions(names, width);
  for (std::size_t line = 0; line < names.size(); ++line) {
    const double left = x + positions[line].first, base = y + positions[line].second;
    page.line(left, base - 4, left + 30, base - 4, stroke_of(line));
    page.text(left + 36, base, names[line], "font-size=\"12\"");
  }
}

}  // namespace detail

inline std::vector<double> LineChart::column_edges() const {
  std::vector<double> edges{panel_left};
  for (std::size_t column = 1; column < in_a_row(); ++column) {
    bool numbers = false;  // whether any row's panel needs room for them
    for (std::size_t p = column; p < panels.size(); p += in_a_row()) numbers = numbers || !continues_row(p);
    edges.push_back(edges.back() + panel_width() + (numbers ? panel_left : close));
  }
  edges.push_back(edges.back() + panel_width() + panel_right);
  return edges;
}

inline detail::Axis LineChart::x_axis(std::size_t column) const {
  std::vector<double> values;
  for (std::size_t p = column; p < panels.size(); p += in_a_row())
    for (const Series& series : panels[p].series) {
      for (const auto& [x, y] : series.points)
        if (detail::drawable(x, x_scale)) values.push_back(x);
      for (const auto& [x, low, high] : series.band)
        if (detail::drawable(x, x_scale)) values.push_back(x);
    }
  if (x_scale == Scale::log) return detail::log_x_axis(std::move(values));
  detail::Range range;
  for (const double x : values) range.include(x);
  return detail::linear_x_axis(range);
}

inline detail::Axis LineChart::y_axis(std::size_t panel) const {
  detail::Range range;
  if (const Panel& own = panels[panel];
      own.y_min < own.y_max && detail::drawable(own.y_min, y_scale) && detail::drawable(own.y_max, y_scale))
    return y_scale == Scale::linear ? detail::linear_axis(own.y_min, own.y_max, 5)
                                    : detail::log_axis(own.y_min, own.y_max, 7);
  for (std::size_t p = 0; p < panels.size(); ++p)
    if (same_y_axis(p, panel))
      for (const Series& series : panels[p].series) {
        for (const auto& [x, y] : series.points)
          if (detail::drawable(y, y_scale)) range.include(y);
        for (const auto& [x, low, high] : series.band)
          for (const double y : {low, high})
            if (detail::drawable(y, y_scale)) range.include(y);
      }
  return y_scale == Scale::log ? detail::log_y_axis(range) : detail::linear_y_axis(range);
}

// Of all panels' series, each once.
inline std::vector<std::string> LineChart::names() const {
  std::vector<std::string> all;
  for (const Panel& panel : panels)
    for (const Series& series : panel.series)
      if (std::find(all.begin(), all.end(), series.name) == all.end()) all.push_back(series.name);
  return all;
}

inline std::string LineChart::svg() const {
  using detail::number;
  const double step_down = panel_height() + row_gap();
  const std::size_t rows = panels.empty() ? 0 : row_of(panels.size() - 1) + 1;
  const std::vector<double> edges = column_edges();
  const std::vector<std::string> all_names = names();
  const double legend_width = edges.back() - panel_left - panel_right;
  const double first_row =
      top + (grid() && !all_names.empty() ? detail::legend_positions(all_names, legend_width).back().second : 0);
  const double height =
      first_row + static_cast<double>(rows) * step_down - row_gap() + bottom + (note.empty() ? 0 : 22);
  detail::Svg page(edges.back(), height);
  page.text(panel_left, 26, title, "font-size=\"16\" font-weight=\"bold\"");
  if (grid()) detail::draw_legend(page, panel_left, 48, legend_width, all_names);
  if (!note.empty()) page.text(panel_left, height - 10, note, "font-size=\"12\" fill=\"#444444\"");

  for (std::size_t p = 0; p < panels.size(); ++p) {
    const Panel& panel = panels[p];
    const double left = edges[column_of(p)], right = left + panel_width(),
                 roof = first_row + static_cast<double>(row_of(p)) * step_down, floor = roof + panel_height();
    const detail::Axis x = x_axis(column_of(p)), y = y_axis(p);
    const auto at_x = [&](double value) { return left + x.position(value) * panel_width(); };
    const auto at_y = [&](double value) { return floor - y.position(value) * panel_height(); };

    for (const double tick : y.ticks) {
      page.line(left, at_y(tick), right, at_y(tick), "stroke=\"#e0e0e0\"");
      if (!continues_row(p))
        page.text(left - 8, at_y(tick) + 4, number(tick, y.digits(y_scale == Scale::log ? 6 : 4)),
                  "text-anchor=\"end\"");
    }
    const bool lowest = p + in_a_row() >= panels.size();
    // A number that would run into its neighbour or into the last one is left out.
    const auto half_width = [](const std::string& text) { return 3.7 * static_cast<double>(text.size()) + 2; };
    const int digits = x.digits(6);
    const std::string last = x.ticks.empty() ? "" : number(x.ticks.back(), digits);
    double free_from = -INFINITY;
    for (const double tick : x.ticks) {
      page.line(at_x(tick), floor, at_x(tick), floor + 5, "stroke=\"#444444\"");
      const std::string text = number(tick, digits);
      const double begin = at_x(tick) - half_width(text), end = at_x(tick) + half_width(text);
      if (!lowest || begin < free_from || (tick != x.ticks.back() && end > at_x(x.ticks.back()) - half_width(last)))
        continue;
      page.text(at_x(tick), floor + 20, text, "text-anchor=\"middle\"");
      free_from = end;
    }
    page.line(left, roof, left, floor, "stroke=\"#444444\"");
    page.line(left, floor, right, floor, "stroke=\"#444444\"");
    if (!continues_row(p)) page.upward_text(left - 54, (roof + floor) / 2, panel.y_label);
    if (lowest)
      page.text((left + right) / 2, floor + 44, panel.x_label.empty() ? x_label : panel.x_label,
                "text-anchor=\"middle\"");

    std::vector<std::string> own_names;
    for (const Series& series : panel.series) {
      const auto line =
          grid()
              ? static_cast<std::size_t>(std::find(all_names.begin(), all_names.end(), series.name) - all_names.begin())
              : own_names.size();
      own_names.push_back(series.name);
      const auto point_text = [](double point_x, double point_y) {
        return detail::fixed(point_x, 2) + "," + detail::fixed(point_y, 2) + " ";
      };
      std::vector<std::pair<double, double>> along_top;
      std::string edge, bottom_edge;  // there along the top, back along the bottom
      for (const auto& [px, low, high] : series.band) {
        if (!detail::drawable(px, x_scale) || !detail::drawable(low, y_scale) || !detail::drawable(high, y_scale))
          continue;
        along_top.emplace_back(at_x(px), at_y(high));
        bottom_edge += point_text(at_x(px), at_y(low));
      }
      for (auto corner = along_top.rbegin(); corner != along_top.rend(); ++corner)
        edge += point_text(corner->first, corner->second);
      edge += bottom_edge;
      if (!edge.empty()) page.polygon(edge, "fill=\"" + detail::colour_of(line) + "\" fill-opacity=\"0.15\"");
      std::vector<std::pair<double, double>> drawn;
      for (const auto& [px, py] : series.points)
        if (detail::drawable(px, x_scale) && detail::drawable(py, y_scale)) drawn.emplace_back(at_x(px), at_y(py));
      std::string points;
      for (const auto& [px, py] : drawn) {
        points += point_text(px, py);
        if (series.marked || drawn.size() == 1)
          page.circle(px, py, "r=\"3\" fill=\"" + detail::colour_of(line) + "\"");  // a line of one point is none
      }
      page.polyline(points, detail::stroke_of(line));
    }
    if (!grid()) detail::draw_legend(page, left, roof - 10, INFINITY, own_names);
  }
  return page.finished();
}

}  // namespace mamba::io
