// The table and the figure of what was measured.
#pragma once

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include <mamba/io/figure/figure.hpp>

#include "scaling.hpp"

namespace scaling {

inline std::string csv(const std::vector<Measurement>& all) {
  std::string text = "axis,value,mixer,work,milliseconds,tokens_per_second,bytes\n";
  for (const Measurement& m : all) {
    char line[200];
    std::snprintf(line, sizeof line, "%s,%d,%s,%s,%.6g,%.6g,%zu\n", m.axis.c_str(), m.value, m.mixer.c_str(),
                  m.work.c_str(), 1e3 * m.seconds, m.tokens / m.seconds, m.bytes);
    text += line;
  }
  return text;
}

namespace detail {

using mamba::io::LineChart, mamba::io::Panel, mamba::io::Series;

inline double microseconds_a_token(const Measurement& m) { return 1e6 * m.seconds / m.tokens; }
inline double milliseconds(const Measurement& m) { return 1e3 * m.seconds; }
inline double megabytes(const Measurement& m) { return 1e-6 * static_cast<double>(m.bytes); }

// One line for each mixer and kind of work that was measured along the axis.
inline std::vector<Series> lines(const std::vector<Measurement>& all, const std::string& axis,
                                 double (*y)(const Measurement&)) {
  std::vector<Series> found;
  for (const std::string work : {"training", "decoding", "forward float", "forward bfloat16"})
    for (const std::string mixer : {"mamba1", "mamba2"}) {
      Series line{(mixer == "mamba1" ? "Mamba-1, " : "Mamba-2, ") + work, {}, true};
      for (const Measurement& m : all)
        if (m.axis == axis && m.work == work && m.mixer == mixer) line.points.emplace_back(m.value, y(m));
      if (!line.points.empty()) found.push_back(std::move(line));
    }
  return found;
}

// What one sequence's states would take if a training step kept them all.
inline Series all_states(const Plan& plan) {
  Series line{"all states of one sequence: length x d_inner x d_state x layers x 4 bytes", {}};
  for (const int length : plan.lengths)
    line.points.emplace_back(length, 1e-6 * length * base.d_inner() * base.d_state * Shape{}.layers * 4);
  return line;
}

}  // namespace detail

inline std::string svg(const std::vector<Measurement>& all, const Plan& plan) {
  using namespace detail;
  LineChart chart;
  const Shape shape;
  chart.title = "How training and decoding scale, " + place(plan);
  chart.note = "Unless varied: d_model " + std::to_string(base.d_model) + ", d_state " + std::to_string(base.d_state) +
               ", " + std::to_string(shape.layers) + " layers; training on " + std::to_string(plan.batch) +
               " sequences of length " + std::to_string(shape.length) +
               "; decoding one sequence. Held: parameters, gradients, activations, states.";
  chart.x_scale = chart.y_scale = mamba::io::Scale::log;
  struct Axis {
    std::string name, label, time_label = "microseconds a token";
    double (*time)(const Measurement&) = microseconds_a_token;
  };
  std::vector<Axis> axes{
      {"batch", "batch"},     {"length", "length, " + std::to_string(plan.tokens) + " tokens a step"},
      {"d_state", "d_state"}, {"d_model", "d_model"},
      {"layers", "layers"},   {"sequence", "length of a single sequence", "milliseconds a step", milliseconds}};
  if (const std::vector<PromptModel> models = prompt_models(); !models.empty()) {
    axes.push_back({"prompt", "tokens of a prompt", "milliseconds a prompt", milliseconds});
    chart.note += " Prompts: d_model " + std::to_string(models.front().config.d_model) + ", " +
                  std::to_string(prompt_layers) + " layers, " + std::to_string(prompt_piece) + " tokens at a time.";
  }
  chart.columns = static_cast<int>(axes.size());
  for (const Axis& axis : axes) chart.panels.push_back({axis.time_label, lines(all, axis.name, axis.time)});
  for (const Axis& axis : axes) {
    Panel memory{"megabytes held", lines(all, axis.name, megabytes), 0, 0, axis.label};
    if (axis.name == "length" || axis.name == "sequence") memory.series.push_back(all_states(plan));
    chart.panels.push_back(std::move(memory));
  }
  return chart.svg();
}

}  // namespace scaling
