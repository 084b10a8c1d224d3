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
  // Of its folder.
  std::string name() const { return "layers" + std::to_string(layers) + "-gamma" + Json(gamma).dump() + "-seed" + std::to_string(seed); }
};

// What came out of a run; of one that diverged nothing but that and the time. seconds: of one that was stopped, since it went on.
struct Row {
  Cell cell;
  double composite = 0, symmetric = 0, best_composite = 0, train_loss = NAN, seconds = 0;
  bool diverged = false;
};

// runs.csv: a row a run, sorted.
class Table {
 public:
  static constexpr const char* header = "layers,gamma,seed,composite_acc,symmetric_acc,best_composite_acc,train_loss,diverged,seconds";

  // Throws Error where a line is not a row.
  static Table read(const std::filesystem::path& path) {
    const auto numbers = support::NumberTable::read(path);
    std::string names;
    for (const std::string& name : numbers.names) names += (names.empty() ? "" : ",") + name;
    if (names != header) mamba::fail(mamba::ErrorKind::bad_file, path.string(), " does not begin with ", header);
    Table table;
    for (const auto& v : numbers.rows) table.add({{static_cast<int>(v[0]), v[1], static_cast<std::uint64_t>(v[2])}, v[3], v[4], v[5], v[6], v[8], v[7] != 0});
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
      text += std::to_string(r.cell.layers) + "," + Json(r.cell.gamma).dump() + "," + std::to_string(r.cell.seed);
      for (const double x : {r.composite, r.symmetric, r.best_composite}) text += "," + Json(x).dump();
      text += "," + (std::isfinite(r.train_loss) ? Json(r.train_loss).dump() : std::string("nan"));
      char seconds[32];
      std::snprintf(seconds, sizeof seconds, "%.1f", r.seconds);
      text += std::string(r.diverged ? ",1," : ",0,") + seconds + "\n";
    }
    return text;
  }

 private:
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
    if (std::sscanf(text.c_str(), "%lu/%lu%n", &number, &of, &used) != 2 || static_cast<std::size_t>(used) != text.size() || number < 1 || number > of)
      mamba::fail(mamba::ErrorKind::invalid_argument, "a shard is written as I/N with I in 1..N, for example 2/8; given ", text);
    return {number, of};
  }
  bool has(std::size_t run) const { return run % of == number - 1; }
};

}  // namespace sweep
