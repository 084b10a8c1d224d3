// How near two diagrams are to each other, cell by cell: a diagram and the published one, or those of two seeds, which
// say how near the former could be.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "sweep.hpp"

namespace agreement {

// Over the cells that both have. correlation: Pearson's, NaN where a side is the same everywhere; distance: the mean of
// |here - there|.
struct Agreement {
  std::size_t cells = 0;
  double correlation = NAN, distance = NAN;
};

inline Agreement of_pairs(const std::vector<std::pair<double, double>>& pairs) {
  if (pairs.empty()) return {};
  const auto count = static_cast<double>(pairs.size());
  double x = 0, y = 0, apart = 0;
  for (const auto& [here, there] : pairs)
    x += here / count, y += there / count, apart += std::abs(here - there) / count;
  double xx = 0, yy = 0, xy = 0;
  for (const auto& [here, there] : pairs)
    xx += (here - x) * (here - x), yy += (there - y) * (there - y), xy += (here - x) * (there - y);
  constexpr double same = 1e-20;  // but for rounding
  return {pairs.size(), xx > same && yy > same ? xy / std::sqrt(xx * yy) : NAN, apart};
}

// A number for a cell of the diagram, where there is one.
using Diagram = std::function<std::optional<double>(int layers, double gamma)>;

inline Agreement of(const sweep::Table& table, const Diagram& here, const Diagram& there) {
  std::set<std::tuple<int, double>> cells;
  for (const sweep::Row& row : table.rows()) cells.emplace(row.cell.layers, row.cell.gamma);
  std::vector<std::pair<double, double>> pairs;
  for (const auto& [layers, gamma] : cells)
    if (const auto a = here(layers, gamma), b = there(layers, gamma); a && b) pairs.emplace_back(*a, *b);
  return of_pairs(pairs);
}

// The composite accuracy of a seed's runs that did not diverge.
inline Diagram of_seed(const sweep::Table& table, std::uint64_t seed) {
  return [&table, seed](int layers, double gamma) -> std::optional<double> {
    const sweep::Row* const row = table.find({layers, gamma, seed});
    return row && !row->diverged ? std::optional(row->composite) : std::nullopt;
  };
}

// A name for each comparison: the means with the published cells, each seed with these, and seeds with each other.
inline std::vector<std::pair<std::string, Agreement>> all(const sweep::Table& table, const Diagram& means,
                                                          const Diagram& published) {
  std::set<std::uint64_t> seeds;
  for (const sweep::Row& row : table.rows()) seeds.insert(row.cell.seed);
  std::vector<std::pair<std::string, Agreement>> rows{{"means, published", of(table, means, published)}};
  const auto name = [](std::uint64_t seed) { return "seed " + std::to_string(seed); };
  for (const auto seed : seeds)
    rows.emplace_back(name(seed) + ", published", of(table, of_seed(table, seed), published));
  for (const auto a : seeds)
    for (const auto b : seeds)
      if (a < b) rows.emplace_back(name(a) + ", " + name(b), of(table, of_seed(table, a), of_seed(table, b)));
  return rows;
}

}  // namespace agreement
