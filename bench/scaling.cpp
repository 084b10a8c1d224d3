// Draws how time and memory of a training step and of decoding grow with batch, length, d_state, d_model and layers;
// on a GPU also those of a prompt with its length.
#include "scaling.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/file.hpp>

#include "scaling_report.hpp"
#include "support/arguments.hpp"
#include "support/exit_codes.hpp"

namespace {

using scaling::Measured, scaling::Measurement, scaling::Model, scaling::Plan, scaling::PromptModel, scaling::Shape;

// One axis after the other.
class Measure {
 public:
  explicit Measure(const Plan& plan) : plan_(plan) {}

  // Models of one mixer.
  void along_axes(std::vector<Model> models) {
    std::sort(models.begin(), models.end(), [](const Model& a, const Model& b) {
      return std::tuple(a.config.d_model, a.config.d_state) < std::tuple(b.config.d_model, b.config.d_state);
    });
    const Model& base =
        *std::find_if(models.begin(), models.end(), [](const Model& model) { return model.config == scaling::base; });
    for (const int batch : plan_.batches) both(base, "batch", batch, {.batch = batch}, {.batch = batch});
    for (const int length : plan_.lengths)
      both(base, "length", length, {.batch = plan_.tokens / length, .length = length}, {.length = length});
    for (const int length : plan_.lengths) training(base, "sequence", length, {.length = length});
    for (const Model& model : models)
      if (model.config.d_model == base.config.d_model)
        both(model, "d_state", model.config.d_state, {.batch = plan_.batch}, {});
    for (const Model& model : models)
      if (model.config.d_state == base.config.d_state)
        both(model, "d_model", model.config.d_model, {.batch = plan_.batch}, {});
    for (const int layers : plan_.layer_counts)
      both(base, "layers", layers, {.layers = layers, .batch = plan_.batch}, {.layers = layers});
  }

  void along_prompts(const std::vector<PromptModel>& models) {
    for (const PromptModel& model : models)
      for (const int tokens : plan_.prompts)
        add({model.forward(plan_, tokens), "prompt", tokens, model.mixer, "forward " + model.precision});
  }

  std::vector<Measurement> results() && { return std::move(results_); }

 private:
  void both(const Model& model, const char* axis, int value, Shape trained, Shape decoded) {
    training(model, axis, value, trained);
    add({model.decoding(plan_, decoded), axis, value, model.mixer, "decoding"});
  }
  void training(const Model& model, const char* axis, int value, Shape shape) {
    add({model.training(plan_, shape), axis, value, model.mixer, "training"});
  }

  void add(Measurement m) {
    std::fprintf(stderr, "%s %s, %s %d: %.3g ms a step, %.3g us a token, %.3g MB\n", m.mixer.c_str(), m.work.c_str(),
                 m.axis.c_str(), m.value, 1e3 * m.seconds, 1e6 * m.seconds / m.tokens,
                 1e-6 * static_cast<double>(m.bytes));
    results_.push_back(std::move(m));
  }

  Plan plan_;
  std::vector<Measurement> results_;
};

}  // namespace

int main(int argc, char** argv) {
  std::filesystem::path out = ".";
  Plan plan;
  // On a GPU all but the longest calls are over in a moment.
  if (scaling::on_gpu) plan.budget = 0.2, plan.threads = 0;
  bool quick = false;
  support::CommandLine app{
      "Measures a training step (loss and gradients) and decoding of Mamba-1 and Mamba-2 models along batch, length, "
      "d_state,\n"
      "d_model and layers: median time, and the memory that the model holds. Writes scaling.csv and scaling.svg."};
  app.add_option("--out", out, "folder for the results");
  app.add_flag("--quick", quick, "fewer and smaller points, each measured once: seconds");
  auto* const budget =
      app.add_option("--budget", plan.budget, "seconds of repeats for each point")->check(CLI::NonNegativeNumber);
  if (!scaling::on_gpu)
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
    std::fprintf(stderr, "On %s.\n", scaling::place(plan).c_str());
    std::error_code error;
    std::filesystem::create_directories(out, error);
    if (error) mamba::fail(mamba::ErrorKind::cannot_write, "cannot create ", out.string(), ": ", error.message());
    Measure measure(plan);
    measure.along_axes(scaling::mamba1_models());
    measure.along_axes(scaling::mamba2_models());
    measure.along_prompts(scaling::prompt_models());
    const std::vector<Measurement> all = std::move(measure).results();
    mamba::io::write_file(out / "scaling.csv", scaling::csv(all));
    mamba::io::write_file(out / "scaling.svg", scaling::svg(all, plan));
    return support::done;
  } catch (const mamba::Error& error) {
    std::fprintf(stderr, "%s: %s\n", scaling::on_gpu ? "bench_cuda_scaling" : "bench_scaling", error.what());
    return support::exit_code(error);
  }
}
