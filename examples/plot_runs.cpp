// Draws what train_composite has logged, one line a run: runs that differ in nothing but the seed share a panel.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <mamba/io/figure.hpp>
#include <mamba/io/json.hpp>
#include <mamba/version.hpp>

#include "support/exit_codes.hpp"
#include "support/text_file.hpp"

namespace {

namespace fs = std::filesystem;
using mamba::io::Json;

// (epoch, value) of a column of training_log.csv.
std::vector<std::pair<double, double>> read_column(const fs::path& path, const std::string& column) {
  const auto log = support::NumberTable::read(path);
  const auto found = std::find(log.names.begin(), log.names.end(), column);
  if (found == log.names.end()) mamba::fail(mamba::ErrorKind::bad_file, path.string(), " has no column ", column);
  std::vector<std::pair<double, double>> points;
  for (const auto& row : log.rows) points.emplace_back(row[0], row[static_cast<std::size_t>(found - log.names.begin())]);
  return points;
}

// What a run's panel is called: its mixer, layers, gamma, and what of the variant is not the default.
std::string panel_of(const Json& config) {
  std::string name = config.at("mixer").string() == "mamba1" ? "Mamba-1" : "Mamba-2";
  const Json& gamma = config.at("gamma");
  name += ", " + config.at("n_layers").dump() + " layers, " + (gamma.is_null() ? "default init." : "gamma " + gamma.dump());
  const std::pair<const char*, const char*> defaults[] = {{"conv", "learned"}, {"position", "none"}, {"residual", "none"}};
  for (const auto& [key, usual] : defaults)
    if (config.at(key).string() != usual) name += std::string(", ") + key + " " + config.at(key).string();
  return name;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<fs::path> runs;
  fs::path out = "runs.svg";
  std::string column = "composite_acc", title = "Accuracy on the pair (4,3)";
  CLI::App app{"Draws the curves of several runs of train_composite: a line for each, a panel for those that differ in the seed alone."};
  app.footer(support::exit_code_help);
  app.set_version_flag("--version", MAMBA_VERSION);
  app.option_defaults()->always_capture_default();
  app.add_option("runs", runs, "their output folders")->required();
  app.add_option("--out", out, "the figure (SVG)");
  app.add_option("--column", column, "of training_log.csv: composite_acc, symmetric_acc, train_loss, lr");
  app.add_option("--title", title, "of the figure");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? support::done : support::usage;
  }
  try {
    mamba::io::LineChart chart;
    chart.title = title, chart.x_label = "epoch", chart.note = column + " of training_log.csv, one line for each seed";
    for (const fs::path& run : runs) {
      const Json config = Json::parse(support::text_of(run / "config.json"));
      const std::string name = panel_of(config);
      auto panel = std::find_if(chart.panels.begin(), chart.panels.end(), [&](const auto& p) { return p.y_label == name; });
      if (panel == chart.panels.end()) {
        chart.panels.push_back({name, {}, 0, column.ends_with("_acc") ? 1.0 : 0.0});
        panel = chart.panels.end() - 1;
      }
      panel->series.push_back({"seed " + config.at("seed").dump(), read_column(run / "training_log.csv", column)});
    }
    mamba::io::write_file(out, chart.svg());
    std::printf("%zu runs in %zu panels, in %s\n", runs.size(), chart.panels.size(), out.string().c_str());
    return support::done;
  } catch (const mamba::Error& error) {
    std::fprintf(stderr, "plot_runs: %s\n", error.what());
    return support::exit_code(error);
  }
}
