// What a training run has been found to be, evaluation by evaluation.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <mamba/io/figure/figure.hpp>

#include "options.hpp"
#include "support/number_table.hpp"

namespace runs {

// How far a run has come, in steps, and after how many it is evaluated.
struct RunPlace {
  long steps, total, per_epoch, every;

  bool evaluated_now() const { return steps % every == 0 || steps == total; }
  // Those up to here: one every so many steps, and one at the end.
  long evaluations() const { return steps / every + (steps == total && steps % every != 0); }
  // The epoch of evaluation 0, 1, ...
  double epoch_of(long evaluation) const {
    return static_cast<double>(std::min((evaluation + 1) * every, total)) / static_cast<double>(per_epoch);
  }
};

// The columns of training_log.csv.
template <class Experiment>
std::vector<support::Column> log_columns() {
  std::vector<support::Column> columns{support::positive_column("epoch"), {"train_loss"}};
  for (const char* column : Experiment::columns) columns.push_back(support::share_column(column));
  columns.push_back(support::positive_column("lr"));
  return columns;
}

// What training_log.csv holds, and the best of the tracked accuracy.
template <class Experiment>
struct History {
  static constexpr std::size_t columns = Experiment::columns.size();
  struct Row {
    double epoch, train_loss;
    Accuracies<columns> accuracies;
    double lr;
  };

  std::vector<Row> rows;
  double best = -1, best_epoch = 0;

  // Whether its accuracy is the best so far.
  bool add(const Row& row) {
    rows.push_back(row);
    if (!(row.accuracies[Experiment::tracked] > best)) return false;
    best = row.accuracies[Experiment::tracked], best_epoch = row.epoch;
    return true;
  }

  Json json() const {
    Json::Elements lines;
    for (const Row& r : rows) {
      Json::Elements line{r.epoch, r.train_loss};
      for (const double a : r.accuracies) line.emplace_back(a);
      line.emplace_back(r.lr);
      lines.emplace_back(std::move(line));
    }
    return Json::Members{{"best", best}, {"best_epoch", best_epoch}, {"log", std::move(lines)}};
  }
  // Throws Error(bad_file) on what is not the history of a run that has come to this place.
  static History from(const Json& json, const RunPlace& place) {
    const auto refuse = [](const auto&... parts) { mamba::fail(mamba::ErrorKind::bad_file, parts...); };
    const Json::Elements& log = json.at("log").elements();
    if (log.size() != static_cast<std::size_t>(place.evaluations()))
      refuse("after step ", place.steps, " a run has been evaluated ", place.evaluations(), " times; its log has ",
             log.size(), " lines");
    History h;
    for (std::size_t i = 0; i < log.size(); ++i) {
      const auto& v = log[i].elements();
      if (v.size() != 3 + columns) refuse("a line of the log has ", 3 + columns, " numbers; given ", log[i].dump());
      Row row{v[0].number(), v[1].number(), {}, v[2 + columns].number()};
      for (std::size_t c = 0; c < columns; ++c) {
        row.accuracies[c] = v[2 + c].number();
        if (!(row.accuracies[c] >= 0 && row.accuracies[c] <= 1))
          refuse("an accuracy is a number from 0 to 1; given ", log[i].dump());
      }
      if (row.epoch != place.epoch_of(static_cast<long>(i)))
        refuse("a line of the log is not of its evaluation: ", log[i].dump());
      if (!(row.lr >= 0)) refuse("a learning rate is a number from 0 on; given ", log[i].dump());
      h.add(row);
    }
    if (json.at("best").number() != h.best || json.at("best_epoch").number() != h.best_epoch)
      refuse("the best of the log is ", h.best, " at epoch ", h.best_epoch, "; given ", json.at("best").dump(), " at ",
             json.at("best_epoch").dump());
    return h;
  }
  std::string csv() const {
    std::string text = "epoch,train_loss,";
    for (const char* column : Experiment::columns) text += std::string(column) + ",";
    text += "lr\n";
    for (const Row& r : rows) {
      std::vector<double> line{r.epoch, r.train_loss};
      line.insert(line.end(), r.accuracies.begin(), r.accuracies.end());
      line.push_back(r.lr);
      text += support::row_text(line) + "\n";
    }
    return text;
  }
  std::string svg(const Options<Experiment>& o) const {
    mamba::io::Series loss{"training loss", {}};
    std::vector<mamba::io::Series> accuracies;
    for (const char* line : Experiment::lines) accuracies.push_back({line, {}});
    for (const Row& r : rows) {
      loss.points.emplace_back(r.epoch, r.train_loss);
      for (std::size_t c = 0; c < columns; ++c) accuracies[c].points.emplace_back(r.epoch, r.accuracies[c]);
    }
    const std::string gamma = o.gamma ? "gamma " + Json(*o.gamma).dump() : "default initialisation";
    return mamba::io::LineChart{std::string(Experiment::title) + ": " + title_of(o.variant) + ", " +
                                    std::to_string(o.layers) + " layers, " + gamma + ", seed " + std::to_string(o.seed),
                                "epoch",
                                {{"cross-entropy", {loss}}, {Experiment::accuracy, std::move(accuracies), 0, 1}}}
        .svg();
  }
};

}  // namespace runs
