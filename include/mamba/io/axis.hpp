// A chart's axes: from the data's range to places and ticks.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <vector>

namespace mamba::io {

enum class Scale { linear, log };  // a log axis shows positive numbers only

namespace detail {

inline bool drawable(double x, Scale scale) { return std::isfinite(x) && (scale == Scale::linear || x > 0); }

// The smallest and the largest of some numbers; low > high without any.
struct Range {
  double low = INFINITY, high = -INFINITY;

  void include(double x) { low = std::min(low, x), high = std::max(high, x); }
  bool empty() const { return !(low <= high); }
};

struct Axis {
  double low, high;
  Scale scale;
  std::vector<double> ticks;

  // 0 at the low end, 1 at the high end; what lies outside is drawn at the edge.
  double place(double x) const {
    x = std::clamp(x, low, high);
    return scale == Scale::linear ? (x - low) / (high - low) : std::log(x / low) / std::log(high / low);
  }
};

// A step of 1, 2 or 5 times a power of ten that cuts the span into at most `most` pieces.
inline double tick_step(double span, int most) {
  const double rough = span / most, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (power * factor >= rough * (1 - 1e-9)) return power * factor;
  return power * 10;
}

inline Axis linear_axis(double low, double high, int most_ticks) {
  Axis axis{low, high, Scale::linear, {}};
  const double step = tick_step(high - low, most_ticks);
  for (double x = std::ceil(low / step - 1e-9) * step; x <= high + 1e-9 * step; x += step) axis.ticks.push_back(std::abs(x) < 1e-9 * step ? 0 : x);
  return axis;
}

// Ends where the data end, or at a zero that is near.
inline Axis linear_x_axis(Range data) {
  if (data.empty()) data = {0, 1};
  if (data.low > 0 && data.low < 0.25 * data.high) data.low = 0;
  if (data.low == data.high) data = {data.low - 0.5, data.low + 0.5};
  return linear_axis(data.low, data.high, 8);
}

// Ends at a tick.
inline Axis linear_y_axis(Range data) {
  if (data.empty()) data = {0, 1};
  if (data.low > 0 && data.low < 0.5 * data.high) data.low = 0;
  if (data.low == data.high) data = {data.low - 0.5, data.high + 0.5};
  const double step = tick_step(data.high - data.low, 5);
  return linear_axis(std::floor(data.low / step + 1e-9) * step, std::ceil(data.high / step - 1e-9) * step, 5);
}

// 1, 2 and 5 times the powers of ten between low and high or, where those are more than `most`, every power of ten, or
// every second one, and so on.
inline std::vector<double> log_ticks(double low, double high, int most) {
  const int first = static_cast<int>(std::floor(std::log10(low) + 1e-9)), last = static_cast<int>(std::ceil(std::log10(high) - 1e-9));
  const auto collect = [&](std::initializer_list<double> factors, int stride) {
    std::vector<double> ticks;
    for (int power = first; power <= last; power += stride)
      for (const double factor : factors)
        if (const double tick = factor * std::pow(10.0, power); tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push_back(tick);
    return ticks;
  };
  std::vector<double> ticks = collect({1, 2, 5}, 1);
  for (int stride = 1; static_cast<int>(ticks.size()) > most; ++stride) ticks = collect({1}, stride);
  return ticks;
}

// Ends a little beyond the data; its ticks are the values themselves where those are few, as the points of a
// measurement are. values: in any order.
inline Axis log_x_axis(std::vector<double> values) {
  constexpr std::size_t few = 12;
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  if (values.empty()) values = {1, 10};
  const double margin = values.size() == 1 ? 2 : std::pow(values.back() / values.front(), 0.04);
  Axis axis{values.front() / margin, values.back() * margin, Scale::log, {}};
  axis.ticks = values.size() <= few ? values : log_ticks(axis.low, axis.high, 8);
  return axis;
}

// Ends at 1, 2 or 5 times a power of ten.
inline Axis log_y_axis(Range data) {
  if (data.empty()) data = {1, 10};
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
