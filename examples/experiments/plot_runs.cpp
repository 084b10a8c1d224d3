// Draws what training programs have logged, one line a run: runs that differ in nothing but the seed share a panel.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <mamba/io/figure/figure.hpp>
#include <mamba/io/json.hpp>

#include "record.hpp"
#include "support/arguments.hpp"
#include "support/exit_codes.hpp"
#include "support/number_table.hpp"
#include "support/text_file.hpp"

namespace {

namespace fs = std::filesystem;
using mamba::io::Json;

// (epoch, value) of a column of training_log.csv.
std::vector<std::pair<double, double>> read_column(const fs::path& path, const std::string& column) {
  const auto log = support::NumberTable::read(path);
  if (log.names[0] != "epoch")
    mamba::fail(mamba::ErrorKind::bad_file, path.string(), " does not begin with the column epoch");
  const auto found = std::find(log.names.begin(), log.names.end(), column);
  if (found == log.names.end()) mamba::fail(mamba::ErrorKind::bad_file, path.string(), " has no column ", column);
  std::vector<std::pair<double, double>> points;
  const auto epoch = support::positive_column("epoch");
  const auto shown = lacking(column.ends_with("_acc") ? support::share_column(column) : support::Column{column});
  for (const auto& row : log.rows) {
    const double x = row[0], y = row[static_cast<std::size_t>(found - log.names.begin())];
    for (const auto& [kind, value] : {std::pair(epoch, x), std::pair(shown, y)})
      if (!fits(kind, value))
        mamba::fail(mamba::ErrorKind::bad_file, path.string(), ": ", kind.name, " is ", expectation(kind), "; given ",
                    value);
    points.emplace_back(x, y);
  }
  return points;
}

// A run's record without its seed, in the keys' order: what it shares with those of its panel. What an older one does
// not mention is in it.
Json::Members without_seed(const Json& config) {
  std::map<std::string, Json> members(runs::younger_options().begin(), runs::younger_options().end());
  for (const auto& [key, value] : config.members())
    if (key != "seed") members.insert_or_assign(key, value);
  return {members.begin(), members.end()};
}

// What a panel is called: mixer, layers, gamma, and what else differs between the runs.
std::string name_of(const Json& config, const std::vector<std::string>& differing) {
  std::string name = config.at("mixer").string() == "mamba1" ? "Mamba-1" : "Mamba-2";
  const Json& gamma = config.at("gamma");
  name +=
      ", " + config.at("n_layers").dump() + " layers, " + (gamma.is_null() ? "default init." : "gamma " + gamma.dump());
  for (const std::string& key : differing)
    if (const Json* value = config.find(key))
      name += ", " + key + " " + (value->is_string() ? value->string() : value->dump());
  return name;
}

// The keys whose values are not the same in all records, but for those that name_of() tells anyway.
std::vector<std::string> differing_keys(const std::vector<Json>& configs) {
  std::vector<std::string> keys;
  for (const Json& config : configs)
    for (const auto& [key, value] : config.members()) {
      const bool differs =
          std::any_of(configs.begin(), configs.end(), [&, k = key, text = value.dump()](const Json& other) {
            const Json* const theirs = other.find(k);
            return (theirs ? *theirs : runs::unmentioned(k)).dump() != text;
          });
      const bool told = key == "mixer" || key == "n_layers" || key == "gamma" || key == "seed";
      if (differs && !told && std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  return keys;
}

int run(int argc, char** argv) {
  std::vector<fs::path> runs;
  fs::path out = "runs.svg";
  std::string column = "composite_acc", title = "Accuracy on the pair (4,3)";
  support::CommandLine app{
      "Draws the curves of several training runs: a line for each, a panel for those that differ in the seed alone."};
  app.add_option("runs", runs, "their output folders")->required();
  app.add_option("--out", out, "the figure (SVG)");
  app.add_option("--column", column, "of training_log.csv: composite_acc, test_acc, train_loss, lr, ...");
  app.add_option("--title", title, "of the figure");
  if (const auto ends = support::parse(app, argc, argv, [] {}, {"--title"})) return *ends;

  mamba::io::LineChart chart;
  chart.title = title, chart.x_label = "epoch", chart.note = column + " of training_log.csv, one line for each seed";
  std::vector<Json> configs;
  for (const fs::path& folder : runs) {
    const auto record = folder / "config.json";
    configs.push_back(support::read_json(record));
    support::from_file(record, [&] {
      return name_of(configs.back(), {}) + configs.back().at("seed").dump();
    });  // whether all that is told is there
  }
  const auto differing = differing_keys(configs);
  std::vector<std::string> shared;  // by the runs of each panel
  for (std::size_t r = 0; r < runs.size(); ++r) {
    const std::string record = Json(without_seed(configs[r])).dump();
    const auto found = std::find(shared.begin(), shared.end(), record);
    const auto p = static_cast<std::size_t>(found - shared.begin());
    if (found == shared.end()) {
      shared.push_back(record);
      chart.panels.push_back({name_of(configs[r], differing), {}, 0, column.ends_with("_acc") ? 1.0 : 0.0});
    }
    chart.panels[p].series.push_back(
        {"seed " + configs[r].at("seed").dump(), read_column(runs[r] / "training_log.csv", column)});
  }
  mamba::io::write_file(out, chart.svg());
  std::printf("%zu runs in %zu panels, in %s\n", runs.size(), chart.panels.size(), out.string().c_str());
  return support::done;
}

}  // namespace

int main(int argc, char** argv) {
  return support::guarded("plot_runs", [&] { return run(argc, argv); });
}
