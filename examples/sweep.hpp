// A grid of runs: which there are, what came out, and the table of it that is replaced as a whole whenever one ends.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/json.hpp>

#include "support/text_file.hpp"

namespace sweep {

using mamba::io::Json;

struct Cell {
  int layers;
  double gamma;
  std::uint64_t seed;

  auto key() const { return std::tuple(layers, gamma, seed); }
  std::string title() const { return std::to_string(layers) + " layers, gamma " + Json(gamma).dump() + ", seed " + std::to_string(seed); }
  // Of its folder.
  std::string name() const { return "layers" + std::to_string(layers) + "-gamma" + Json(gamma).dump() + "-seed" + std::to_string(seed); }
};

// What came out of a run; of one that diverged its log alone. seconds: of one that was stopped, since it went on.
struct Row {
  Cell cell;
  double composite = NAN, symmetric = NAN, best_composite = NAN, train_loss = NAN, seconds = 0;
  bool diverged = false;
  std::vector<std::vector<double>> log{};  // the rows of its training_log.csv
};

// All that a diagram is drawn from: runs.csv, a row a run, and curves.csv, a row an evaluation, both sorted.
class Table {
 public:
  static constexpr const char* header = "layers,gamma,seed,composite_acc,symmetric_acc,best_composite_acc,train_loss,diverged,seconds";
  static constexpr const char* curves_header = "layers,gamma,seed,epoch,train_loss,composite_acc,symmetric_acc,lr";

  // Both files of a folder. Throws Error where a line is not a row.
  static Table read(const std::filesystem::path& folder) {
    Table table;
    for (const auto& v : rows_of(folder / "runs.csv", header)) table.add({cell_of(v), v[3], v[4], v[5], v[6], v[8], v[7] != 0});
    for (const auto& v : rows_of(folder / "curves.csv", curves_header))
      if (const auto at = table.place_of(cell_of(v)); at != table.rows_.end() && at->cell.key() == cell_of(v).key())
        table.rows_[static_cast<std::size_t>(at - table.rows_.begin())].log.emplace_back(v.begin() + 3, v.end());
    return table;
  }

  const std::vector<Row>& rows() const { return rows_; }
  const Row* find(const Cell& cell) const {
    const auto at = place_of(cell);
    return at != rows_.end() && at->cell.key() == cell.key() ? &*at : nullptr;
  }
  // A run that is there already stays.
  void add(const Row& row) {
    if (!find(row.cell)) rows_.insert(place_of(row.cell), row);
  }
  std::string csv() const {
    std::string text = std::string(header) + "\n";
    for (const Row& r : rows_) {
      text += text_of(r.cell) + "," + support::row_text({r.composite, r.symmetric, r.best_composite, r.train_loss});
      char seconds[32];
      std::snprintf(seconds, sizeof seconds, "%.1f", r.seconds);
      text += std::string(r.diverged ? ",1," : ",0,") + seconds + "\n";
    }
    return text;
  }
  std::string curves_csv() const {
    std::string text = std::string(curves_header) + "\n";
    for (const Row& r : rows_)
      for (const auto& line : r.log) text += text_of(r.cell) + "," + support::row_text(line) + "\n";
    return text;
  }

 private:
  static std::vector<std::vector<double>> rows_of(const std::filesystem::path& path, const std::string& expected) {
    auto table = support::NumberTable::read(path);
    std::string names;
    for (const std::string& name : table.names) names.append(names.empty() ? "" : ",").append(name);
    if (names != expected) mamba::fail(mamba::ErrorKind::bad_file, path.string(), " does not begin with ", expected);
    return std::move(table.rows);
  }
  static Cell cell_of(const std::vector<double>& row) { return {static_cast<int>(row[0]), row[1], static_cast<std::uint64_t>(row[2])}; }
  static std::string text_of(const Cell& cell) { return std::to_string(cell.layers) + "," + Json(cell.gamma).dump() + "," + std::to_string(cell.seed); }

  std::vector<Row>::const_iterator place_of(const Cell& cell) const {
    return std::lower_bound(rows_.begin(), rows_.end(), cell, [](const Row& row, const Cell& c) { return row.cell.key() < c.key(); });
  }

  std::vector<Row> rows_;
};

// "2/8": the second of eight shares of the runs. Throws Error on anything else.
struct Shard {
  std::size_t number = 1, of = 1;

  static Shard parse(const std::string& text) {
    unsigned long number = 0, of = 0;
    int used = 0;
    if (text.find_first_not_of("0123456789/") != std::string::npos || std::sscanf(text.c_str(), "%lu/%lu%n", &number, &of, &used) != 2 ||
        static_cast<std::size_t>(used) != text.size() || number < 1 || number > of)
      mamba::fail(mamba::ErrorKind::invalid_argument, "a shard is written as I/N with I in 1..N, for example 2/8; given ", text);
    return {number, of};
  }
  bool has(std::size_t run) const { return run % of == number - 1; }
};

}  // namespace sweep
