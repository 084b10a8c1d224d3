// A chart's axes: from the data's range to positions and ticks.
#pragma once

#include <mamba/core/requirements.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <vector>

namespace mamba::io {

enum class Scale { linear, log };  // a log axis shows positive numbers only

namespace detail {

inline bool drawable(double x, Scale scale) { return std::isfinite(x) && (scale == Scale::linear || x > 0); }

// The smallest and the largest of some numbers; low > high without any.
struct Range {
  double low = INFINITY, high = -INFINITY;

  void include(double x) { low = (std::min)(low, x), high = (std::max)(high, x); }
  bool empty() const { return !(low <= high); }
};

struct Axis {
  double low, high;  // low < high
  Scale scale;
  std::vector<double> ticks;

  // How many digits tell neighbouring ticks from each other: `usual`, or as many more as it takes.
  int digits(int usual) const {
    if (scale == Scale::log && !ticks.empty() && ticks.back() == std::floor(ticks.back()) && ticks.back() < 1e9)
      return (std::max)(usual, static_cast<int>(std::log10((std::max)(ticks.back(), 1.0))) + 1);  // 1048576, whole
    if (scale == Scale::log || ticks.size() < 2) return usual;
    const double largest = (std::max)(std::abs(ticks.front()), std::abs(ticks.back())), step = ticks[1] - ticks[0];
    if (!(step > 0)) return usual;
    const double needed = std::floor(std::log10(largest / step) + 1e-9) + 2;
    return needed > usual ? static_cast<int>((std::min)(needed, 17.0)) : usual;
  }

  // 0 at the low end, 1 at the high end; what lies outside is drawn at the edge.
  double position(double x) const {
    x = std::clamp(x, low, high);
    if (scale == Scale::linear) return (x - low) / (high - low);
    if (std::isfinite(high / low)) return std::log(x / low) / std::log(high / low);
    return (std::log(x) - std::log(low)) / (std::log(high) - std::log(low));
  }
};

// What axes reach at most, so that no span, no tick and no end of theirs leaves a double's range.
inline constexpr double linear_limit = 1e307, smallest_span = 1e-300, log_low_limit = 1e-300, log_high_limit = 1e300;
// Ends that differ by less of their size are one: no tick would fit between them.
inline constexpr double precision = 1e-12;
inline constexpr int most_ticks_ever = 40;

// A range that a linear axis can show, with low < high: numbers that it cannot tell apart stand in its middle, infinite
// ones and those beyond the limit at its edge.
inline Range linear_range(Range data) {
  if (data.empty()) data = {0, 1};
  data = {std::clamp(data.low, -linear_limit, linear_limit), std::clamp(data.high, -linear_limit, linear_limit)};
  const double size = (std::max)(std::abs(data.low), std::abs(data.high)),
               needed = (std::max)(smallest_span, precision * size);
  if (data.high - data.low < needed) data = {data.low - 0.5, data.high + 0.5};
  if (data.high - data.low < needed) data = {data.low - size / 2, data.high + size / 2};
  return data;
}

// The same for a logarithmic axis, whose ends are positive.
inline Range log_range(Range data) {
  if (data.empty()) data = {1, 10};
  data = {std::clamp(data.low, log_low_limit, log_high_limit), std::clamp(data.high, log_low_limit, log_high_limit)};
  if (data.high / data.low < 1 + precision) data = {data.low / 2, data.high * 2};
  return data;
}

// A step of 1, 2 or 5 times a power of ten that cuts the span, a positive number, into at most `most` pieces.
inline double tick_step(double span, int most) {
  const double rough = span / most, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (power * factor >= rough * (1 - 1e-9)) return power * factor;
  return power * 10;
}

// Ticks are multiples of a step, counted in whole numbers: a sum of steps need not get ahead.
inline Axis linear_axis(double low, double high, int most_ticks) {
  const Range range = linear_range({low, high});
  Axis axis{range.low, range.high, Scale::linear, {}};
  const double step = tick_step(axis.high - axis.low, most_ticks);
  const double first = std::ceil(axis.low / step - 1e-9), last = std::floor(axis.high / step + 1e-9);
  for (int i = 0; i < most_ticks_ever && first + i <= last; ++i) axis.ticks.push_back((first + i) * step);
  return axis;
}

// Ends where the data end, or at a zero that is near.
inline Axis linear_x_axis(Range data) {
  if (data.low > 0 && data.low < 0.25 * data.high) data.low = 0;
  data = linear_range(data);
  return linear_axis(data.low, data.high, 8);
}

// Ends at a tick.
inline Axis linear_y_axis(Range data) {
  if (data.low > 0 && data.low < 0.5 * data.high) data.low = 0;
  data = linear_range(data);
  const double step = tick_step(data.high - data.low, 5);
  return linear_axis(std::floor(data.low / step + 1e-9) * step, std::ceil(data.high / step - 1e-9) * step, 5);
}

// 1, 2 and 5 times the powers of ten between low and high or, where those are more than `most`, every power of ten, or
// every second one, and so on.
inline std::vector<double> log_ticks(double low, double high, int most) {
  const Range range = log_range({low, high});
  const int first = static_cast<int>(std::floor(std::log10(range.low) + 1e-9)),
            last = static_cast<int>(std::ceil(std::log10(range.high) - 1e-9));
  const auto collect = [&](std::initializer_list<double> factors, int stride) {
    std::vector<double> ticks;
    for (int power = first; power <= last; power += stride)
      for (const double factor : factors)
        if (const double tick = factor * std::pow(10.0, power);
            tick >= range.low * (1 - 1e-9) && tick <= range.high * (1 + 1e-9))
          ticks.push_back(tick);
    return ticks;
  };
  std::vector<double> ticks = collect({1, 2, 5}, 1);
  for (int stride = 1; static_cast<int>(ticks.size()) > most && stride <= last - first; ++stride)
    ticks = collect({1}, stride);
  return ticks;
}

// Between two given ends.
inline Axis log_axis(double low, double high, int most_ticks) {
  const Range range = log_range({low, high});
  return {range.low, range.high, Scale::log, log_ticks(range.low, range.high, most_ticks)};
}

// Ends a little beyond the data; its ticks are the values themselves where those are few, as the points of a
// measurement are. values: positive, in any order.
inline Axis log_x_axis(std::vector<double> values) {
  constexpr std::size_t few = 12;
  for (double& x : values) x = std::clamp(x, log_low_limit, log_high_limit);
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  if (values.empty()) values = {1, 10};
  const double low = values.front(), high = values.back(), ratio = high / low;
  const double margin = ratio < 1 + precision  ? 2
                        : std::isfinite(ratio) ? std::pow(ratio, 0.04)
                                               : std::exp(0.04 * (std::log(high) - std::log(low)));
  Axis axis{(std::max)(low / margin, 1e-307), (std::min)(high * margin, 1e307), Scale::log, {}};
  axis.ticks = values.size() <= few ? values : log_ticks(axis.low, axis.high, 8);
  return axis;
}

// Ends at 1, 2 or 5 times a power of ten.
inline Axis log_y_axis(Range data) {
  if (data.empty()) data = {1, 10};
  data = {std::clamp(data.low, log_low_limit, log_high_limit), std::clamp(data.high, log_low_limit, log_high_limit)};
  const auto power = [](double x) { return std::pow(10.0, std::floor(std::log10(x) + 1e-9)); };
  double low = power(data.low), high = 10 * power(data.high);
  for (const double factor : {2.0, 5.0})
    if (factor * power(data.low) <= data.low * (1 + 1e-9)) low = factor * power(data.low);
  for (const double factor : {5.0, 2.0, 1.0})
    if (factor * power(data.high) >= data.high * (1 - 1e-9)) high = factor * power(data.high);
  if (low >= high) low /= 2, high *= 2;
  return {low, high, Scale::log, log_ticks(low, high, 7)};
}

}  // namespace detail

}  // namespace mamba::io
