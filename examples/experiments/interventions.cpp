// Blocking, substitution, information flow, convolution taps and logit lens of a trained model.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "interventions_run.hpp"
#include "support/arguments.hpp"

namespace {

// The words behind --in-layers: layers and, where the model has not been named before, its file at their end.
void take_layers(const std::vector<std::string>& words, runs::InterventionOptions& o) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    const auto layer = support::whole<int>(words[i]);
    if (layer) o.in_layers.push_back(*layer);
    else if (i + 1 == words.size() && o.model.empty()) o.model = words[i];
    else throw CLI::ValidationError("--in-layers", "a layer is a whole number; given " + words[i]);
  }
  if (o.model.empty()) throw CLI::RequiredError("model");
}

int run(int argc, char** argv) {
  runs::InterventionOptions o;
  std::vector<std::string> in_layers;
  support::CommandLine app{
      "Looks and reaches inside a trained model of the composite function task: blocks what key and anchors tell "
      "later\n"
      "tokens, substitutes the activations of (4,3), draws the information flow, the convolution's taps and what each "
      "layer would answer."};
  app.add_option("model", o.model, "a model or checkpoint of train_composite")->type_name("TEXT REQUIRED");
  app.add_option("--out", o.out, "folder for table and figures; unless given, a new one in runs/");
  app.add_option("--sequences", o.sequences, "sequences for each of the 16 pairs")->check(CLI::Range(1, 1000000));
  app.add_option("--seed", o.seed, "of the sequences")->check(support::is_seed);
  app.add_option("--in-layers", in_layers, "layers in which to intervene; unless given, all")->type_name("INT");
  auto* const initial =
      app.add_option("--initial-seed", o.initial_seed,
                     "seed of the run that trained the model; unless given, what its record says, or 0")
          ->check(support::is_seed);
  app.add_option("--threads", o.threads, "0: all cores")->check(CLI::NonNegativeNumber);
  app.add_flag("--json", o.json, "the table as JSON on standard output");
  if (const auto ends = support::parse(app, argc, argv, [&] { take_layers(in_layers, o); })) return *ends;

  const auto file = mamba::io::SafetensorsFile::read(o.model);
  o.layers = runs::layers_of(file, o.model);
  if (const auto record = runs::record_of(file, o.model)) {
    runs::Options<runs::Composite> of_run;
    restore(of_run, record->options, record->path);
    if (!*initial) o.initial_seed = of_run.seed;
    o.gamma_fan = of_run.gamma_fan, o.gamma_except = of_run.gamma_except;
    o.task = of_run.task, o.task.seed = of_run.seed;
  } else {
    std::fprintf(
        stderr, "%s has no record of its run: its initial taps are drawn, and its test sets, as by --preset protocol\n",
        o.model.c_str());
  }
  if (const auto config = mamba::detail::told(file.metadata(), "config"))
    if (const runs::Json* const gamma = config->find("gamma"))
      support::from_file(o.model, [&] {
        o.gamma = gamma->is_null() ? std::nullopt : std::optional(gamma->number());
        mamba::ModelOptions{.gamma = o.gamma}.check();
      });
  return find_variant(runs::all_interventions(),
                      runs::variant_of<runs::Composite>(file, o.model).value_or(runs::Variant{}))
      .run(o, file);
}

}  // namespace

int main(int argc, char** argv) {
  return support::guarded("interventions", [&] { return run(argc, argv); });
}
