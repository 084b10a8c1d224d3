// Blocking, substitution, information flow and convolution taps of a trained model.
#include <CLI/CLI.hpp>

#include "interventions_run.hpp"
#include "support/arguments.hpp"

int main(int argc, char** argv) {
  runs::InterventionOptions o;
  CLI::App app{
      "Looks and reaches inside a trained model of the composite function task: blocks what key and anchors tell later\n"
      "tokens, substitutes the activations of (4,3), draws the information flow and the convolution's taps."};
  app.footer(support::exit_code_help);
  app.set_version_flag("--version", MAMBA_VERSION);
  app.option_defaults()->always_capture_default();
  app.add_option("model", o.model, "a model or checkpoint of train_composite")->required();
  app.add_option("--out", o.out, "folder for table and figures; unless given, a new one in runs/");
  app.add_option("--sequences", o.sequences, "sequences for each of the 16 pairs")->check(CLI::Range(1, 1000000));
  app.add_option("--seed", o.seed, "of the sequences")->check(support::is_seed);
  app.add_option("--in-layers", o.in_layers, "layers in which to intervene; unless given, all");
  auto* const initial = app.add_option("--initial-seed", o.initial_seed, "seed of the run that trained the model; unless given, what its record says, or 0")
                            ->check(support::is_seed);
  app.add_option("--threads", o.threads, "0: all cores")->check(CLI::NonNegativeNumber);
  app.add_flag("--json", o.json, "the table as JSON on standard output");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? support::done : support::usage;
  }
  return support::guarded("interventions", [&] {
    const auto file = mamba::io::SafetensorsFile::read(o.model);
    o.layers = mamba::layers_in(file);
    if (const auto config = file.metadata().find("config"); config != file.metadata().end()) {
      const auto gamma = mamba::io::Json::parse(config->second).at("gamma");
      o.gamma = gamma.is_null() ? std::nullopt : std::optional(gamma.number());
    }
    if (const auto record = runs::record_of(file, o.model); record && !*initial) o.initial_seed = record->at("seed").integer<std::uint64_t>();
    const auto variant = runs::variant_of(file).value_or(runs::Variant{});
    return find_variant(runs::all_interventions(), variant).run(o);
  });
}
