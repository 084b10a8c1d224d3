// Draws how time and memory of a training step and of decoding grow with batch, length, d_state, d_model and layers.
#include "scaling.hpp"

#include <CLI/CLI.hpp>
#include <filesystem>

#include <mamba/io/figure/figure.hpp>
#include <mamba/io/file.hpp>

#include "support/arguments.hpp"
#include "support/exit_codes.hpp"

namespace {

using mamba::io::LineChart, mamba::io::Panel, mamba::io::Scale, mamba::io::Series;
using scaling::Measurement, scaling::Plan;

std::string csv(const std::vector<Measurement>& all) {
  std::string text = "axis,value,mixer,work,milliseconds,tokens_per_second,bytes\n";
  for (const Measurement& m : all) {
    char line[200];
    std::snprintf(line, sizeof line, "%s,%d,%s,%s,%.6g,%.6g,%zu\n", m.axis.c_str(), m.value, m.mixer.c_str(),
                  m.work.c_str(), 1e3 * m.seconds, m.tokens / m.seconds, m.bytes);
    text += line;
  }
  return text;
}

double microseconds_a_token(const Measurement& m) { return 1e6 * m.seconds / m.tokens; }
double milliseconds(const Measurement& m) { return 1e3 * m.seconds; }
double megabytes(const Measurement& m) { return 1e-6 * static_cast<double>(m.bytes); }

// One line for each mixer and kind of work that was measured along the axis.
std::vector<Series> lines(const std::vector<Measurement>& all, const std::string& axis,
                          double (*y)(const Measurement&)) {
  std::vector<Series> found;
  for (const std::string work : {"training", "decoding"})
    for (const std::string mixer : {"mamba1", "mamba2"}) {
      Series line{(mixer == "mamba1" ? "Mamba-1, " : "Mamba-2, ") + work, {}, true};
      for (const Measurement& m : all)
        if (m.axis == axis && m.work == work && m.mixer == mixer) line.points.emplace_back(m.value, y(m));
      if (!line.points.empty()) found.push_back(std::move(line));
    }
  return found;
}

// What one sequence's states would take if a training step kept them all.
Series all_states(const Plan& plan) {
  Series line{"all states of one sequence: length x d_inner x d_state x layers x 4 bytes", {}};
  for (const int length : plan.lengths)
    line.points.emplace_back(
        length, 1e-6 * length * scaling::base.d_inner() * scaling::base.d_state * scaling::Shape{}.layers * 4);
  return line;
}

std::string svg(const std::vector<Measurement>& all, const Plan& plan) {
  LineChart chart;
  const scaling::Shape shape;
  chart.title = "How training and decoding scale, " + (plan.threads == 0   ? std::string("all cores")
                                                       : plan.threads == 1 ? "one thread"
                                                                           : std::to_string(plan.threads) + " threads");
  chart.note = "Unless varied: d_model " + std::to_string(scaling::base.d_model) + ", d_state " +
               std::to_string(scaling::base.d_state) + ", " + std::to_string(shape.layers) + " layers; training on " +
               std::to_string(plan.batch) + " sequences of length " + std::to_string(shape.length) +
               "; decoding one sequence. Held: parameters, gradients, activations, states.";
  chart.x_scale = chart.y_scale = Scale::log;
  const std::pair<std::string, std::string> axes[] = {
      {"batch", "batch"},     {"length", "length, " + std::to_string(plan.tokens) + " tokens a step"},
      {"d_state", "d_state"}, {"d_model", "d_model"},
      {"layers", "layers"},   {"sequence", "length of a single sequence"}};
  chart.columns = static_cast<int>(std::size(axes));
  for (const auto& [axis, label] : axes)
    chart.panels.push_back(axis == "sequence" ? Panel{"milliseconds a step", lines(all, axis, milliseconds)}
                                              : Panel{"microseconds a token", lines(all, axis, microseconds_a_token)});
  for (const auto& [axis, label] : axes) {
    Panel memory{"megabytes held", lines(all, axis, megabytes), 0, 0, label};
    if (axis == "length" || axis == "sequence") memory.series.push_back(all_states(plan));
    chart.panels.push_back(std::move(memory));
  }
  return chart.svg();
}

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out = ".";
  Plan plan;
  bool quick = false;
  support::CommandLine app{
      "Measures a training step (loss and gradients) and decoding of Mamba-1 and Mamba-2 models along batch, length, "
      "d_state,\n"
      "d_model and layers: median time, and the memory that the model holds. Writes scaling.csv and scaling.svg."};
  app.add_option("--out", out, "folder for the results");
  app.add_flag("--quick", quick, "fewer and smaller points, each measured once: seconds");
  auto* const budget =
      app.add_option("--budget", plan.budget, "seconds of repeats for each point")->check(CLI::NonNegativeNumber);
  app.add_option("--threads", plan.threads,
                 "0: all cores; more than one cannot share a sequence, so that long ones scale otherwise")
      ->check(CLI::NonNegativeNumber);
  if (const auto ends = support::parse(app, argc, argv)) return *ends;
  if (quick) {
    const Plan given = std::exchange(plan, Plan::quick());
    plan.threads = given.threads;
    if (*budget) plan.budget = given.budget;
  }

  try {
    std::error_code error;
    std::filesystem::create_directories(out, error);
    if (error) mamba::fail(mamba::ErrorKind::cannot_write, "cannot create ", out.string(), ": ", error.message());
    std::vector<Measurement> all = scaling::measure_mamba1(plan);
    for (Measurement& m : scaling::measure_mamba2(plan)) all.push_back(std::move(m));
    mamba::io::write_file(out / "scaling.csv", csv(all));
    mamba::io::write_file(out / "scaling.svg", svg(all, plan));
    return support::done;
  } catch (const mamba::Error& error) {
    std::fprintf(stderr, "bench_scaling: %s\n", error.what());
    return support::exit_code(error);
  }
}
