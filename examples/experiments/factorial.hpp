// A comparison as a factorial design: eight details, each as one reading or another, in 16 of their 256 combinations,
// and what is observed of every run.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <mamba/io/safetensors.hpp>
#include <mamba/model/inspect.hpp>

#include "effects.hpp"
#include "options.hpp"

namespace comparison {

// A detail with two readings.
template <class Experiment>
struct Factor {
  using Change = std::function<void(runs::Options<Experiment>&)>;
  FactorNames names;
  Change low, high;
};

// The 16 combinations of eight factors in which no effect of one is mixed up with that of another, nor of two together
// (resolution IV: the fifth factor is the product of the first three, the sixth of the second to fourth, the seventh of
// the first, third and fourth, the eighth of the first, second and fourth; Box and Hunter, The 2^(k-p) fractional
// factorial designs, 1961).
inline constexpr std::size_t factors_of_design = 8, lines_of_design = 16;
inline std::vector<bool> levels_of(std::size_t line) {
  const auto bit = [&](std::size_t i) { return (line >> i & 1) != 0; };
  const bool a = bit(0), b = bit(1), c = bit(2), d = bit(3);
  return {a, b, c, d, (a != b) != c, (b != c) != d, (a != c) != d, (a != b) != d};
}

// What is observed of a run: the loss of the first evaluation, the accuracies of the last one, and of the tracked
// accuracy its best, when it first reaches a half, and how it moves in the last quarter; the convolutions' taps.
template <class Experiment>
std::vector<std::string> observables() {
  const auto brief = [](std::string column) { return column.substr(0, column.rfind("_acc")); };
  std::vector<std::string> names{"first loss"};
  for (const char* column : Experiment::columns) names.push_back(brief(column) + " at the end");
  names.push_back("best " + brief(Experiment::columns[Experiment::tracked]));
  names.insert(names.end(), {"epoch of half", "late moves", "taps' cosines"});
  return names;
}

// The root mean square of the cosines between different taps over all layers of a saved model; NaN where it is not
// there, or for a convolution of one tap.
inline double taps_cosines(const std::filesystem::path& model) {
  if (!std::filesystem::exists(model)) return NAN;
  const auto file = mamba::io::SafetensorsFile::read(model);
  double squares = 0, count = 0;
  for (const auto& [name, info] : file.tensors()) {
    if (!name.ends_with(".mixer.conv1d.weight")) continue;
    const auto weight = file.tensor<double>(name);
    const auto cosines = mamba::tap_cosines<double>(weight.values, static_cast<int>(info.shape.back()));
    for (std::ptrdiff_t k = 0; k < cosines.rows(); ++k)
      for (std::ptrdiff_t l = 0; l < k; ++l) squares += cosines(k, l) * cosines(k, l), ++count;
  }
  return std::sqrt(squares / count);
}

// In the order of observables(): log holds the rows of the run's training_log.csv, of which there is one.
template <class Experiment>
std::vector<double> observed(const std::vector<std::vector<double>>& log, const std::filesystem::path& run) {
  constexpr std::size_t first_accuracy = 2, tracked = first_accuracy + Experiment::tracked;
  std::vector<double> values{log.front()[1]};
  for (std::size_t c = 0; c < Experiment::columns.size(); ++c) values.push_back(log.back()[first_accuracy + c]);
  double best = 0, half = log.back()[0];  // of one that never gets there the end
  for (const auto& row : log) best = std::max(best, row[tracked]);
  for (auto row = log.rbegin(); row != log.rend(); ++row)
    if ((*row)[tracked] >= 0.5) half = (*row)[0];
  // The standard deviation over the last quarter.
  double sum = 0, squares = 0;
  const std::size_t late = std::max<std::size_t>(log.size() / 4, 1);
  for (std::size_t i = log.size() - late; i < log.size(); ++i) sum += log[i][tracked];
  for (std::size_t i = log.size() - late; i < log.size(); ++i) {
    const double off = log[i][tracked] - sum / static_cast<double>(late);
    squares += off * off;
  }
  values.insert(values.end(), {best, half, std::sqrt(squares / static_cast<double>(late))});
  values.push_back(taps_cosines(run / "model_final.safetensors"));
  return values;
}

}  // namespace comparison
