// A grid of runs: which there are, what came out, and the table of it that is replaced as a whole whenever one ends.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/text.hpp>
#include <mamba/io/json.hpp>

#include "options.hpp"
#include "support/number_table.hpp"

namespace sweep {

using mamba::io::Json;

struct Cell {
  int layers;
  double gamma;
  std::uint64_t seed;

  auto key() const { return std::tuple(layers, gamma, seed); }
  std::string title() const {
    return std::to_string(layers) + " layers, gamma " + Json(gamma).dump() + ", seed " + std::to_string(seed);
  }
  // Of its folder.
  std::string name() const {
    return "layers" + std::to_string(layers) + "-gamma" + Json(gamma).dump() + "-seed" + std::to_string(seed);
  }
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
  static constexpr const char* header =
      "layers,gamma,seed,composite_acc,symmetric_acc,best_composite_acc,train_loss,diverged,seconds";
  static constexpr const char* curves_header = "layers,gamma,seed,epoch,train_loss,composite_acc,symmetric_acc,lr";

  // Both files of a folder. Throws Error(bad_file) where a line is not a row, or holds what a run cannot have come to.
  static Table read(const std::filesystem::path& folder) {
    using support::lacking, support::positive_column, support::share_column, support::whole_column;
    std::vector<support::Column> columns = cell_columns(), curve_columns = cell_columns();
    for (const char* share : {"composite_acc", "symmetric_acc", "best_composite_acc"})
      columns.push_back(lacking(share_column(share)));
    columns.push_back(lacking({"train_loss"})), columns.push_back(whole_column("diverged", 0, 1)),
        columns.push_back(positive_column("seconds"));
    curve_columns.push_back(positive_column("epoch")), curve_columns.push_back({"train_loss"});
    curve_columns.push_back(share_column("composite_acc")), curve_columns.push_back(share_column("symmetric_acc"));
    curve_columns.push_back(positive_column("lr"));
    Table table;
    const auto runs = folder / "runs.csv", curves = folder / "curves.csv";
    for (const auto& v : support::NumberTable::read(runs, columns).rows) {
      const bool diverged = v[7] != 0;
      for (std::size_t c = 3; c < 7; ++c)
        if (std::isnan(v[c]) != diverged)
          mamba::fail(mamba::ErrorKind::bad_file, runs.string(), ": ", cell_of(v).title(), " has ",
                      diverged ? "diverged and has" : "not diverged, but has no", " ", columns[c].name);
      table.rows_.push_back({cell_of(v), v[3], v[4], v[5], v[6], v[8], diverged});
    }
    // Of runs that are there twice the first; then none is equal to another.
    std::set<decltype(Row{}.cell.key())> seen;
    std::erase_if(table.rows_, [&](const Row& row) { return !seen.insert(row.cell.key()).second; });
    std::sort(table.rows_.begin(), table.rows_.end(), by_cell);
    for (const auto& v : support::NumberTable::read(curves, curve_columns).rows)
      if (const auto at = table.place_of(cell_of(v)); at != table.rows_.end() && at->cell.key() == cell_of(v).key()) {
        auto& log = table.rows_[static_cast<std::size_t>(at - table.rows_.begin())].log;
        if (!log.empty() && !(v[3] > log.back()[0]))
          mamba::fail(mamba::ErrorKind::bad_file, curves.string(), ": the epochs of ", at->cell.title(),
                      " do not rise at ", v[3]);
        log.emplace_back(v.begin() + 3, v.end());
      }
    return table;
  }

  const std::vector<Row>& rows() const { return rows_; }
  const Row* find(const Cell& cell) const {
    const auto at = place_of(cell);
    return at != rows_.end() && at->cell.key() == cell.key() ? &*at : nullptr;
  }
  // The runs of a cell of the diagram, which lie one after the other.
  std::span<const Row> of(int layers, double gamma) const {
    const auto first = std::partition_point(rows_.begin(), rows_.end(), [&](const Row& row) {
      return std::tuple(row.cell.layers, row.cell.gamma) < std::tuple(layers, gamma);
    });
    const auto last = std::partition_point(first, rows_.end(), [&](const Row& row) {
      return std::tuple(row.cell.layers, row.cell.gamma) <= std::tuple(layers, gamma);
    });
    return {first, last};
  }
  // A run that is there already stays.
  void add(const Row& row) {
    if (!find(row.cell)) rows_.insert(place_of(row.cell), row);
  }
  void add(const Table& other) {
    std::vector<Row> all;
    std::set_union(rows_.begin(), rows_.end(), other.rows_.begin(), other.rows_.end(), std::back_inserter(all),
                   by_cell);
    rows_ = std::move(all);
  }
  std::string csv() const {
    std::string text = std::string(header) + "\n";
    for (const Row& r : rows_) {
      text += text_of(r.cell) + "," + support::row_text({r.composite, r.symmetric, r.best_composite, r.train_loss});
      text += (r.diverged ? ",1," : ",0,") + mamba::fixed_text(r.seconds, 1) + "\n";
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
  static bool by_cell(const Row& a, const Row& b) { return a.cell.key() < b.cell.key(); }
  static std::vector<support::Column> cell_columns() {
    constexpr double largest_exact = 9007199254740992;  // of the whole numbers that a double holds
    return {support::whole_column("layers", 1, runs::most_layers), support::positive_column("gamma"),
            support::whole_column("seed", 0, largest_exact)};
  }
  static Cell cell_of(const std::vector<double>& row) {
    return {static_cast<int>(row[0]), row[1], static_cast<std::uint64_t>(row[2])};
  }
  static std::string text_of(const Cell& cell) {
    return std::to_string(cell.layers) + "," + Json(cell.gamma).dump() + "," + std::to_string(cell.seed);
  }

  std::vector<Row>::const_iterator place_of(const Cell& cell) const {
    return std::lower_bound(rows_.begin(), rows_.end(), cell,
                            [](const Row& row, const Cell& c) { return row.cell.key() < c.key(); });
  }

  std::vector<Row> rows_;
};

// "2/8": the second of eight shares of the runs. Throws Error on anything else.
struct Shard {
  std::size_t number = 1, of = 1;

  static Shard parse(const std::string& text) {
    const auto parts = support::pieces(text, '/');
    const auto first = support::whole<std::size_t>(parts.front()), last = support::whole<std::size_t>(parts.back());
    if (parts.size() != 2 || !first || !last || *first < 1 || *first > *last)
      mamba::fail(mamba::ErrorKind::invalid_argument,
                  "a shard is written as I/N with I in 1..N, for example 2/8; given ", text);
    return {*first, *last};
  }
  bool has(std::size_t run) const { return run % of == number - 1; }
};

}  // namespace sweep
