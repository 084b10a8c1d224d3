// Line charts as SVG: panels one below the other over a shared x axis.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace mamba::io {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;
};

struct Panel {
  std::string y_label;
  std::vector<Series> series;
  double y_min = 0, y_max = 0;  // equal: from the data
};

struct LineChart {
  std::string title, x_label;
  std::vector<Panel> panels;

  std::string svg() const;
};

namespace detail {

inline std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

inline std::string number(double x, const char* format = "%.6g") {
  char text[40];
  std::snprintf(text, sizeof text, format, x == 0 ? 0.0 : x);
  return text;
}

// A step of 1, 2 or 5 times a power of ten that cuts the span into at most `most` pieces.
inline double tick_step(double span, int most) {
  const double rough = span / most, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (power * factor >= rough * (1 - 1e-9)) return power * factor;
  return power * 10;
}

}  // namespace detail

inline std::string LineChart::svg() const {
  using detail::number;
  // Colours that stay apart for colour-blind readers (Okabe and Ito), and dashes for those who print.
  constexpr const char* colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};
  constexpr const char* dashes[] = {"none", "7 3", "2 3", "9 3 2 3", "12 4", "4 4"};
  constexpr double width = 760, left = 74, right = 24, top = 66, panel_height = 220, gap = 46, bottom = 56;
  const double height = top + static_cast<double>(panels.size()) * (panel_height + gap) - gap + bottom, plot = width - left - right;

  double x_low = INFINITY, x_high = -INFINITY;
  for (const Panel& panel : panels)
    for (const Series& series : panel.series)
      for (const auto& [x, y] : series.points) x_low = std::min(x_low, x), x_high = std::max(x_high, x);
  if (x_low > 0 && x_low < 0.25 * x_high) x_low = 0;
  if (!(x_low < x_high)) x_low = std::isfinite(x_low) ? x_low - 0.5 : 0, x_high = x_low + 1;

  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(width) + " " + number(height) + "\" width=\"" + number(width) +
                    "\" height=\"" + number(height) +
                    "\" font-family=\"sans-serif\" font-size=\"13\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  const auto text = [&](double x, double y, const std::string& s, const char* attributes) {
    out += "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" " + attributes + ">" + detail::escaped(s) + "</text>\n";
  };
  const auto line = [&](double x1, double y1, double x2, double y2, const char* colour) {
    out += "<line x1=\"" + number(x1) + "\" y1=\"" + number(y1) + "\" x2=\"" + number(x2) + "\" y2=\"" + number(y2) + "\" stroke=\"" + colour + "\"/>\n";
  };
  text(left, 26, title, "font-size=\"16\" font-weight=\"bold\"");

  double origin = top;
  for (std::size_t p = 0; p < panels.size(); ++p, origin += panel_height + gap) {
    const Panel& panel = panels[p];
    double low = panel.y_min, high = panel.y_max;
    if (!(low < high)) {
      low = INFINITY, high = -INFINITY;
      for (const Series& series : panel.series)
        for (const auto& [x, y] : series.points)
          if (std::isfinite(y)) low = std::min(low, y), high = std::max(high, y);
      if (!std::isfinite(low)) low = 0, high = 1;
      if (low > 0 && low < 0.5 * high) low = 0;
      if (!(low < high)) low -= 0.5, high += 0.5;
      const double step = detail::tick_step(high - low, 5);
      low = std::floor(low / step + 1e-9) * step, high = std::ceil(high / step - 1e-9) * step;
    }
    const auto at_x = [&](double x) { return left + (x - x_low) / (x_high - x_low) * plot; };
    const auto at_y = [&](double y) { return origin + panel_height - (std::clamp(y, low, high) - low) / (high - low) * panel_height; };

    const double y_step = detail::tick_step(high - low, 5), x_step = detail::tick_step(x_high - x_low, 8);
    for (double y = std::ceil(low / y_step - 1e-9) * y_step; y <= high + 1e-9 * y_step; y += y_step) {
      line(left, at_y(y), left + plot, at_y(y), "#e0e0e0");
      text(left - 8, at_y(y) + 4, number(std::abs(y) < 1e-9 * y_step ? 0 : y, "%.4g"), "text-anchor=\"end\"");
    }
    const bool last = p + 1 == panels.size();
    for (double x = std::ceil(x_low / x_step - 1e-9) * x_step; x <= x_high + 1e-9 * x_step; x += x_step) {
      line(at_x(x), origin + panel_height, at_x(x), origin + panel_height + 5, "#444444");
      if (last) text(at_x(x), origin + panel_height + 20, number(std::abs(x) < 1e-9 * x_step ? 0 : x, "%.6g"), "text-anchor=\"middle\"");
    }
    line(left, origin, left, origin + panel_height, "#444444");
    line(left, origin + panel_height, left + plot, origin + panel_height, "#444444");
    out += "<text transform=\"translate(20 " + number(origin + panel_height / 2) + ") rotate(-90)\" text-anchor=\"middle\">" + detail::escaped(panel.y_label) +
           "</text>\n";

    double legend_x = left;  // names stand in a row above the panel, where no line runs
    for (std::size_t s = 0; s < panel.series.size(); ++s) {
      const Series& series = panel.series[s];
      const char* const colour = colours[s % std::size(colours)];
      const char* const dash = dashes[s % std::size(dashes)];
      std::string points;
      for (const auto& [x, y] : series.points)
        if (std::isfinite(y)) points += number(at_x(x), "%.2f") + "," + number(at_y(y), "%.2f") + " ";
      out +=
          std::string("<polyline fill=\"none\" stroke=\"") + colour + "\" stroke-width=\"2\" stroke-dasharray=\"" + dash + "\" points=\"" + points + "\"/>\n";
      if (series.points.size() == 1 && std::isfinite(series.points[0].second))
        out += "<circle cx=\"" + number(at_x(series.points[0].first)) + "\" cy=\"" + number(at_y(series.points[0].second)) + "\" r=\"3\" fill=\"" + colour +
               "\"/>\n";
      const double legend_y = origin - 10;
      out += "<line x1=\"" + number(legend_x) + "\" y1=\"" + number(legend_y - 4) + "\" x2=\"" + number(legend_x + 30) + "\" y2=\"" + number(legend_y - 4) +
             "\" stroke=\"" + colour + "\" stroke-width=\"2\" stroke-dasharray=\"" + dash + "\"/>\n";
      text(legend_x + 36, legend_y, series.name, "font-size=\"12\"");
      legend_x += 60 + 6.6 * static_cast<double>(series.name.size());
    }
  }
  text(left + plot / 2, height - 12, x_label, "text-anchor=\"middle\"");
  return out + "</svg>\n";
}

}  // namespace mamba::io
