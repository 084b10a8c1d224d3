// What two-level factors do to what is observed of runs: effects with their standard errors, as a table and as a
// figure.
#pragma once

#include <Eigen/Dense>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <mamba/core/text.hpp>
#include <mamba/io/figure/axis.hpp>
#include <mamba/io/figure/svg.hpp>

namespace comparison {

// "head", and its two levels: "tied", "untied".
struct FactorNames {
  std::string name, low, high;
};

// One run of a design: its levels, one a factor; the line that its repetitions share; what was observed, NaN where
// nothing was; which repetition it is.
struct DesignedRun {
  std::vector<bool> levels;
  std::size_t line;
  std::vector<double> observed;
  std::uint64_t seed = 0;
};

// What a factor's high level adds to its low one; error: its standard error, from how the repetitions of a line differ.
// NaN without runs, or repetitions, that would tell.
struct Effect {
  double value = NAN, error = NAN;
};

// All effects, (observables, factors): least squares for a constant and an effect of each factor. Where every run is
// there, that is the difference of the means at both levels; where some are missing, the others' effects stay apart.
using Effects = std::vector<std::vector<Effect>>;

inline std::vector<Effect> effects_on(const std::vector<DesignedRun>& runs, std::size_t factors,
                                      std::size_t observable) {
  std::vector<Effect> effects(factors);
  std::vector<const DesignedRun*> there;
  for (const DesignedRun& run : runs)
    if (std::isfinite(run.observed[observable])) there.push_back(&run);
  const auto count = static_cast<Eigen::Index>(there.size()), unknowns = static_cast<Eigen::Index>(factors) + 1;
  Eigen::MatrixXd design = Eigen::MatrixXd::Ones(count, unknowns);
  Eigen::VectorXd observed(count);
  std::map<std::size_t, std::pair<double, double>> of_line;  // sum and count
  for (Eigen::Index i = 0; i < count; ++i) {
    const DesignedRun& run = *there[static_cast<std::size_t>(i)];
    for (std::size_t f = 0; f < factors; ++f) design(i, static_cast<Eigen::Index>(f) + 1) = run.levels[f] ? 1 : 0;
    observed(i) = run.observed[observable];
    auto& [sum, repetitions] = of_line[run.line];
    sum += observed(i), ++repetitions;
  }
  const Eigen::FullPivLU<Eigen::MatrixXd> squares(design.transpose() * design);
  if (count == 0 || !squares.isInvertible()) return effects;
  const Eigen::MatrixXd inverse = squares.inverse();
  const Eigen::VectorXd solution = inverse * (design.transpose() * observed);
  double spread = 0;
  for (Eigen::Index i = 0; i < count; ++i) {
    const auto& [sum, repetitions] = of_line.at(there[static_cast<std::size_t>(i)]->line);
    spread += std::pow(observed(i) - sum / repetitions, 2);
  }
  const double freedom = static_cast<double>(there.size()) - static_cast<double>(of_line.size());
  for (std::size_t f = 0; f < factors; ++f) {
    const auto at = static_cast<Eigen::Index>(f) + 1;
    effects[f].value = solution(at);
    if (freedom > 0) effects[f].error = std::sqrt(spread / freedom * inverse(at, at));
  }
  return effects;
}

inline Effects effects_of(const std::vector<DesignedRun>& runs, std::size_t factors, std::size_t observables) {
  Effects effects;
  for (std::size_t o = 0; o < observables; ++o) effects.push_back(effects_on(runs, factors, o));
  return effects;
}

// A row for each factor and observable.
inline std::string effects_csv(const std::vector<FactorNames>& factors, const std::vector<std::string>& observables,
                               const Effects& effects) {
  std::string table = "factor,low,high,observable,effect,standard_error\n";
  for (std::size_t f = 0; f < factors.size(); ++f)
    for (std::size_t o = 0; o < observables.size(); ++o) {
      const auto& [name, low, high] = factors[f];
      for (const std::string& word : {name, low, high, observables[o]}) table += word + ",";
      table += mamba::general_text(effects[o][f].value, 6) + "," + mamba::general_text(effects[o][f].error, 6) + "\n";
    }
  return table;
}

// A panel for each observable; in it a dot for each factor's effect, with two standard errors to either side.
inline std::string effects_svg(const std::string& title, const std::string& note,
                               const std::vector<FactorNames>& factors, const std::vector<std::string>& observables,
                               const Effects& effects) {
  namespace draw = mamba::io::detail;
  constexpr double names = 226, panel = 168, gap = 22, line = 24, top = 84, bottom = 56;
  const double height = line * static_cast<double>(factors.size()),
               width = names + static_cast<double>(observables.size()) * (panel + gap) + 10;
  draw::Svg svg(width, top + height + bottom);
  svg.text(20, 28, title, "font-size=\"16\" font-weight=\"bold\"");
  for (std::size_t f = 0; f < factors.size(); ++f)
    svg.text(names - 12, top + line * (static_cast<double>(f) + 0.5) + 4,
             factors[f].name + ": " + factors[f].low + " to " + factors[f].high, "text-anchor=\"end\"");
  for (std::size_t o = 0; o < observables.size(); ++o) {
    const double left = names + static_cast<double>(o) * (panel + gap);
    draw::Range range{0, 0};
    for (const Effect& effect : effects[o]) {
      const double reach = std::isfinite(effect.error) ? 2 * effect.error : 0;
      if (std::isfinite(effect.value)) range.include(effect.value - reach), range.include(effect.value + reach);
    }
    const draw::Range shown = draw::linear_range(range);
    const draw::Axis axis = draw::linear_axis(shown.low, shown.high, 4);
    const auto x_of = [&](double value) { return left + panel * axis.position(value); };
    svg.text(left + panel / 2, top - 12, observables[o], "text-anchor=\"middle\" font-weight=\"bold\"");
    for (const double tick : axis.ticks) {
      svg.line(x_of(tick), top, x_of(tick), top + height, "stroke=\"#e0e0e0\"");
      svg.text(x_of(tick), top + height + 16, draw::number(tick, axis.digits(3)),
               "text-anchor=\"middle\" font-size=\"11\"");
    }
    svg.line(x_of(0), top, x_of(0), top + height, "stroke=\"#404040\"");
    for (std::size_t f = 0; f < factors.size(); ++f) {
      const auto [value, error] = effects[o][f];
      if (!std::isfinite(value)) continue;
      const double y = top + line * (static_cast<double>(f) + 0.5);
      const std::string colour = std::abs(value) > 2 * error ? "#d55e00" : "#56b4e9";
      if (std::isfinite(error))
        svg.line(x_of(value - 2 * error), y, x_of(value + 2 * error), y,
                 "stroke-width=\"2\" stroke=\"" + colour + "\"");
      svg.circle(x_of(value), y, "r=\"4\" fill=\"" + colour + "\"");
    }
  }
  svg.text(20, top + height + 42, note, "font-size=\"12\" fill=\"#444444\"");
  return svg.finished();
}

}  // namespace comparison
