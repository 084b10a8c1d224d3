// Heatmaps and bar charts as SVG.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <mamba/io/figure/figure.hpp>

namespace mamba::io {

// One map: values (rows, columns) with the number in each cell; a NaN leaves its cell empty.
struct Heatmap {
  std::string title, row_label, column_label;
  std::vector<std::string> row_names, column_names;
  std::vector<std::vector<double>> values;
  double full = 0;                                   // the value of the full colour; 0: the largest
  std::vector<std::vector<std::string>> notes = {};  // a word under a cell's number, for some or none of them
};

namespace detail {

// Empty where there are fewer names than values.
inline std::string name_of(const std::vector<std::string>& names, std::size_t i) {
  return i < names.size() ? names[i] : std::string();
}

// A cell's number: two decimals, one where it is long, and powers of ten where it would not fit.
inline std::string cell_text(double x) {
  if (!std::isfinite(x)) return "";
  return std::abs(x) >= 1e9 ? number(x, 2) : fixed(x, std::abs(x) >= 10 ? 1 : 2);
}

}  // namespace detail

// Maps side by side, each with its own colour scale from 0 (or, with negative values, from -full) to its full colour.
inline std::string heatmaps_svg(const std::string& title, const std::vector<Heatmap>& maps, int maps_in_a_row = 4) {
  using detail::escaped, detail::number;
  constexpr double cell = 40, left = 56, top = 46, gap = 40, head = 44;
  double map_width = 0, map_height = 0;
  for (const Heatmap& map : maps) {
    map_width = (std::max)(map_width, left + cell * static_cast<double>(map.column_names.size()));
    map_height = (std::max)(map_height, top + cell * static_cast<double>(map.row_names.size()) + 40);
  }
  const double columns =
      std::clamp(static_cast<double>(maps.size()), 1.0, (std::max)(static_cast<double>(maps_in_a_row), 1.0));
  const double rows = std::ceil(static_cast<double>(maps.size()) / columns);
  const double width = (std::max)(columns * (map_width + gap) + 20, 40 + 10 * static_cast<double>(title.size())),
               height = head + rows * (map_height + 14) + 10;
  std::string out =
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(width) + " " + number(height) +
      "\" width=\"" + number(width) + "\" height=\"" + number(height) +
      "\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  const auto text = [&](double x, double y, const std::string& s, const std::string& attributes) {
    out += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + attributes + ">" + escaped(s) + "</text>\n";
  };
  text(20, 28, title, "font-size=\"16\" font-weight=\"bold\"");
  for (std::size_t m = 0; m < maps.size(); ++m) {
    const Heatmap& map = maps[m];
    const double x0 = 20 + std::fmod(static_cast<double>(m), columns) * (map_width + gap) + left;
    const double y0 = head + std::floor(static_cast<double>(m) / columns) * (map_height + 14) + top;
    double largest = map.full;
    if (map.full == 0)
      for (const auto& row : map.values)
        for (const double v : row)
          if (std::isfinite(v)) largest = (std::max)(largest, std::abs(v));
    text(x0, y0 - 26, map.title, "font-size=\"13\" font-weight=\"bold\"");
    for (std::size_t i = 0; i < map.values.size(); ++i) {
      const double y = y0 + cell * static_cast<double>(i);
      text(x0 - 6, y + cell / 2 + 4, detail::name_of(map.row_names, i), "text-anchor=\"end\"");
      for (std::size_t j = 0; j < map.values[i].size(); ++j) {
        const double v = map.values[i][j],
                     share = largest > 0 && std::isfinite(v) ? std::clamp(v / largest, -1.0, 1.0) : 0,
                     x = x0 + cell * static_cast<double>(j);
        // White to blue above zero, white to orange below.
        const auto mix = [&](double full) { return number(std::round(255 + (full - 255) * std::abs(share))); };
        const std::string colour = share >= 0 ? "rgb(" + mix(0) + "," + mix(92) + "," + mix(160) + ")"
                                              : "rgb(" + mix(213) + "," + mix(94) + "," + mix(0) + ")";
        out += "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" + number(cell) + "\" height=\"" +
               number(cell) + "\" fill=\"" + colour + "\" stroke=\"#dddddd\"/>\n";
        const std::string ink = std::string("fill=\"") + (std::abs(share) > 0.55 ? "white" : "black") + "\"";
        text(x + cell / 2, y + cell / 2 + 4, detail::cell_text(v), "text-anchor=\"middle\" font-size=\"11\" " + ink);
        if (i < map.notes.size())
          if (const std::string note = detail::name_of(map.notes[i], j); !note.empty())
            text(x + cell / 2, y + cell - 5, note, "text-anchor=\"middle\" font-size=\"8\" " + ink);
      }
    }
    for (std::size_t j = 0; j < map.column_names.size(); ++j)
      text(x0 + cell * (static_cast<double>(j) + 0.5), y0 - 8, map.column_names[j], "text-anchor=\"middle\"");
    const double bottom = y0 + cell * static_cast<double>(map.row_names.size());
    text(x0 + cell * static_cast<double>(map.column_names.size()) / 2, bottom + 18, map.column_label,
         "text-anchor=\"middle\" fill=\"#444444\"");
    out += "<text transform=\"translate(" + number(x0 - 40) + " " + number((y0 + bottom) / 2) +
           ") rotate(-90)\" text-anchor=\"middle\" fill=\"#444444\">" + escaped(map.row_label) + "</text>\n";
  }
  return out + "</svg>\n";
}

// Groups of bars between 0 and 1; a NaN leaves its place empty.
struct BarChart {
  std::string title, y_label;
  std::vector<std::string> group_names, bar_names;
  std::vector<std::vector<double>> values;  // (groups, bars)

  std::string svg() const {
    using detail::escaped, detail::fixed, detail::name_of, detail::number;
    constexpr const char* colours[] = {"#0072b2", "#e69f00", "#009e73", "#cc79a7"};
    constexpr double left = 64, top = 84, plot_height = 240, bar = 11, group_gap = 12, bottom = 50;
    const double group = bar * static_cast<double>(bar_names.size()) + group_gap,
                 plot = group * static_cast<double>(group_names.size());
    const double width = (std::max)(left + plot + 24, 40 + 9 * static_cast<double>(title.size())),
                 height = top + plot_height + bottom;
    std::string out =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(width) + " " + number(height) +
        "\" width=\"" + number(width) + "\" height=\"" + number(height) +
        "\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
    const auto text = [&](double x, double y, const std::string& s, const char* attributes) {
      out += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + attributes + ">" + escaped(s) + "</text>\n";
    };
    text(20, 28, title, "font-size=\"16\" font-weight=\"bold\"");
    double x = left;
    for (std::size_t b = 0; b < bar_names.size(); ++b) {
      out += "<rect x=\"" + number(x) + "\" y=\"46\" width=\"12\" height=\"12\" fill=\"" +
             colours[b % std::size(colours)] + "\"/>\n";
      text(x + 18, 57, bar_names[b], "");
      x += 40 + 6.8 * static_cast<double>(bar_names[b].size());
    }
    for (int tick = 0; tick <= 5; ++tick) {
      const double y = top + plot_height * (1 - 0.2 * tick);
      out += "<line x1=\"" + number(left) + "\" x2=\"" + number(left + plot) + "\" y1=\"" + number(y) + "\" y2=\"" +
             number(y) + "\" stroke=\"#e0e0e0\"/>\n";
      text(left - 8, y + 4, fixed(0.2 * tick, 1), "text-anchor=\"end\"");
    }
    for (std::size_t g = 0; g < values.size(); ++g) {
      const double origin = left + group * static_cast<double>(g) + group_gap / 2;
      for (std::size_t b = 0; b < values[g].size(); ++b) {
        const double v = std::clamp(values[g][b], 0.0, 1.0);
        if (std::isfinite(values[g][b]))
          out += "<rect x=\"" + number(origin + bar * static_cast<double>(b)) + "\" y=\"" +
                 number(top + plot_height * (1 - v)) + "\" width=\"" + number(bar - 1) + "\" height=\"" +
                 number(plot_height * v) + "\" fill=\"" + colours[b % std::size(colours)] + "\"><title>" +
                 escaped(name_of(group_names, g) + ", " + name_of(bar_names, b)) + ": " + fixed(v, 4) +
                 "</title></rect>\n";
      }
      text(origin + (group - group_gap) / 2, top + plot_height + 18, name_of(group_names, g), "text-anchor=\"middle\"");
    }
    out += "<text transform=\"translate(22 " + number(top + plot_height / 2) +
           ") rotate(-90)\" text-anchor=\"middle\">" + escaped(y_label) + "</text>\n";
    return out + "</svg>\n";
  }
};

}  // namespace mamba::io
