// The phase diagram's figures: heatmaps in the layout of the paper's, every run's curve, and one page with all of it
// beside the published numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <mamba/core/text.hpp>
#include <mamba/io/figure/figure.hpp>
#include <mamba/io/figure/heatmap.hpp>
#include <mamba/version.hpp>

#include "agreement.hpp"
#include "sweep.hpp"

namespace phase_report {

using sweep::Json, sweep::Row, sweep::Table;

// arXiv 2509.17514: accuracy on (4,3) by the composite label, mean of three seeds of its Mamba-2.
inline std::optional<double> published(int layers, double gamma) {
  constexpr double gammas[] = {.1, .2, .3, .4, .5, .6, .7, .8, .9, 1.0, 1.5, 2.0};
  constexpr double of_layers[6][12] = {{.06, .05, .04, .08, .25, .13, .29, .30, .50, .61, .34, .55},
                                       {.07, .06, .06, .09, .07, .09, .17, .23, .85, .94, .64, .64},
                                       {.08, .09, .10, .07, .12, .15, .23, .34, .49, .92, .77, .94},
                                       {.10, .10, .11, .10, .14, .18, .31, .34, .44, .72, .73, .89},
                                       {.12, .17, .10, .09, .26, .24, .28, .41, .55, .90, .97, .85},
                                       {.06, .08, .11, .19, .33, .60, .71, .65, .86, .98, .98, .72}};
  if (layers < 2 || layers > 7) return std::nullopt;
  for (std::size_t i = 0; i < std::size(gammas); ++i)
    if (gammas[i] == gamma) return of_layers[layers - 2][i];
  return std::nullopt;
}

// What the table has: layers from the most to the fewest, as in the paper's figure, and gammas rising.
struct Axes {
  std::vector<int> layers;
  std::vector<double> gammas;

  explicit Axes(const Table& table) {
    std::set<int, std::greater<>> l;
    std::set<double> g;
    for (const Row& row : table.rows()) l.insert(row.cell.layers), g.insert(row.cell.gamma);
    layers.assign(l.begin(), l.end()), gammas.assign(g.begin(), g.end());
  }
};

// A cell's runs that did not diverge.
inline int runs_of(const Table& table, int layers, double gamma) {
  const auto runs = table.of(layers, gamma);
  return static_cast<int>(std::count_if(runs.begin(), runs.end(), [](const Row& row) { return !row.diverged; }));
}
// The mean over them; NaN without any.
inline double mean(const Table& table, int layers, double gamma, double Row::* value) {
  double sum = 0;
  for (const Row& row : table.of(layers, gamma))
    if (!row.diverged) sum += row.*value;
  const int count = runs_of(table, layers, gamma);
  return count > 0 ? sum / count : NAN;
}

// "2 seeds"
inline std::string seeds_text(int count) { return std::to_string(count) + (count == 1 ? " seed" : " seeds"); }

inline std::string heatmap(const Table& table, const std::string& title, double Row::* value) {
  const Axes axes(table);
  int most = 0;  // runs of a cell
  bool fewer = false;
  for (const int layers : axes.layers)
    for (const double gamma : axes.gammas) most = std::max(most, runs_of(table, layers, gamma));
  mamba::io::Heatmap map{"", "layers", "gamma", {}, {}, {}, 1};
  for (const double gamma : axes.gammas) map.column_names.push_back(Json(gamma).dump());
  for (const int layers : axes.layers) {
    map.row_names.push_back(std::to_string(layers));
    auto& row = map.values.emplace_back();
    auto& notes = map.notes.emplace_back();
    for (const double gamma : axes.gammas) {
      row.push_back(mean(table, layers, gamma, value));
      const int count = runs_of(table, layers, gamma);
      notes.push_back(count > 0 && count < most ? seeds_text(count) : "");
      fewer = fewer || count < most;
    }
  }
  map.title = most > 1 ? "mean over " + seeds_text(most) : "one seed";
  if (fewer) map.title += ", of fewer where a cell says so, or is empty";
  return mamba::io::heatmaps_svg(title, {map}, 1);
}

// "+0.25"
inline std::string difference_text(double x) {
  return x < 0 ? mamba::fixed_text(x, 2) : "+" + mamba::fixed_text(x + 0.0, 2);
}

// (epoch, composite accuracy) of a run.
inline std::vector<std::pair<double, double>> curve(const Row& row) {
  std::vector<std::pair<double, double>> points;
  for (const auto& line : row.log) points.emplace_back(line[0], line[2]);
  return points;
}

// Every run's composite accuracy over the epochs, a panel a cell.
inline std::string curves(const Table& table) {
  const Axes axes(table);
  mamba::io::LineChart chart;
  chart.title = "Composite accuracy on (4,3) of every run", chart.x_label = "epoch",
  chart.columns = static_cast<int>(axes.gammas.size());
  for (const int layers : axes.layers)
    for (const double gamma : axes.gammas) {
      mamba::io::Panel panel{std::to_string(layers) + " layers", {}, 0, 1, "gamma " + Json(gamma).dump() + ", epoch"};
      for (const Row& row : table.of(layers, gamma))
        panel.series.push_back({"seed " + std::to_string(row.cell.seed), curve(row)});
      chart.panels.push_back(std::move(panel));
    }
  return chart.svg();
}

// How near the diagram is to the published one, and what to measure that by.
inline std::vector<std::pair<std::string, agreement::Agreement>> beside_published(const Table& table) {
  return agreement::all(
      table,
      [&](int layers, double gamma) -> std::optional<double> {
        const double here = mean(table, layers, gamma, &Row::composite);
        return std::isfinite(here) ? std::optional(here) : std::nullopt;
      },
      published);
}

// One self-contained page. settings: as settings.json.
inline std::string html(const Table& table, const std::string& title, const Json& settings, bool beside_paper) {
  using mamba::fixed_text, mamba::io::detail::escaped;
  std::string page = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/><title>" + escaped(title) +
                     "</title><style>body{font-family:sans-serif;max-width:1200px;margin:2em "
                     "auto}table{border-collapse:collapse}td,th{border:1px solid "
                     "#ccc;padding:.2em .6em;text-align:right}div{overflow-x:auto}</style></head>\n<body><h1>" +
                     escaped(title) + "</h1>\n";
  std::size_t diverged = 0;
  for (const Row& row : table.rows()) diverged += row.diverged;
  page += "<p>" + std::to_string(table.rows().size()) + " runs, " + std::to_string(diverged) +
          " of them diverged. mamba " MAMBA_VERSION ".</p>\n";
  page += "<div>" + heatmap(table, "Composite label (key - 10)", &Row::composite) + "</div>\n<div>" +
          heatmap(table, "Symmetric label (key - 6)", &Row::symmetric) + "</div>\n";
  if (beside_paper) {
    page +=
        "<h2>Beside the published numbers (composite label)</h2>\n<p>Those are the paper's, of Mamba-2, means "
        "of three seeds; the settings of "
        "these runs stand "
        "below.</p>\n<table><tr><th>layers</th><th>gamma</th><th>runs</th><th>here</th><th>published</th>"
        "<th>difference</th></tr>\n";
    const Axes axes(table);
    for (const int layers : axes.layers)
      for (const double gamma : axes.gammas) {
        const double here = mean(table, layers, gamma, &Row::composite);
        const auto there = published(layers, gamma);
        if (!there || !std::isfinite(here)) continue;
        page += "<tr><td>" + std::to_string(layers) + "</td><td>" + Json(gamma).dump() + "</td><td>" +
                std::to_string(runs_of(table, layers, gamma)) + "</td><td>" + fixed_text(here, 2) + "</td><td>" +
                fixed_text(*there, 2) + "</td><td>" + difference_text(here - *there) + "</td></tr>\n";
      }
    page +=
        "</table>\n<h2>How near</h2>\n<p>Composite accuracy, cell by cell. How near seeds are to each other says how "
        "near one diagram can be to another.</p>\n"
        "<table><tr><th></th><th>cells</th><th>correlation</th><th>mean distance</th></tr>\n";
    for (const auto& [name, near] : beside_published(table))
      page += "<tr><td>" + name + "</td><td>" + std::to_string(near.cells) + "</td><td>" +
              fixed_text(near.correlation, 2) + "</td><td>" + fixed_text(near.distance, 2) + "</td></tr>\n";
    page += "</table>\n";
  }
  page += "<h2>Every run</h2>\n<div>" + curves(table) + "</div>\n<h2>Settings</h2>\n<pre>" + escaped(settings.dump(2)) +
          "</pre>\n</body></html>\n";
  return page;
}

}  // namespace phase_report
