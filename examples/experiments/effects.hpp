// What two-level factors do to what is observed of runs: differences of means with their standard errors, as a table
// and as a figure.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <string>
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
// nothing was.
struct DesignedRun {
  std::vector<bool> levels;
  std::size_t line;
  std::vector<double> observed;
};

// The mean at a factor's high level less that at its low one; error: its standard error, from how the repetitions of a
// line differ. NaN without runs, or repetitions, that would tell.
struct Effect {
  double value = NAN, error = NAN;
};

inline Effect effect_of(const std::vector<DesignedRun>& runs, std::size_t factor, std::size_t observable) {
  struct Sum {
    double sum = 0, count = 0;
    double mean() const { return sum / count; }
  };
  Sum of_level[2];
  std::map<std::size_t, Sum> of_line;
  const auto each = [&](auto&& f) {
    for (const DesignedRun& run : runs)
      if (const double x = run.observed[observable]; std::isfinite(x)) f(run, x);
  };
  const auto add = [](Sum& sum, double x) { sum.sum += x, ++sum.count; };
  each([&](const DesignedRun& run, double x) { add(of_level[run.levels[factor]], x), add(of_line[run.line], x); });
  double squares = 0, freedom = -static_cast<double>(of_line.size());
  each([&](const DesignedRun& run, double x) {
    const double off = x - of_line[run.line].mean();
    squares += off * off, ++freedom;
  });
  const auto& [low, high] = of_level;
  return {high.mean() - low.mean(),
          freedom > 0 ? std::sqrt(squares / freedom * (1 / low.count + 1 / high.count)) : NAN};
}

// All effects, (observables, factors).
using Effects = std::vector<std::vector<Effect>>;

inline Effects effects_of(const std::vector<DesignedRun>& runs, std::size_t factors, std::size_t observables) {
  Effects effects(observables);
  for (std::size_t o = 0; o < observables; ++o)
    for (std::size_t f = 0; f < factors; ++f) effects[o].push_back(effect_of(runs, f, o));
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
