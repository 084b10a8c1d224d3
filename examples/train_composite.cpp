// Trains a Mamba model on the composite function task and says which solution it prefers.
#include <CLI/CLI.hpp>

#include "composite_run.hpp"
#include "composite_variants.hpp"

namespace {

using composite_run::Options;
using mamba::io::Json;

std::string text_of(mamba::task::TokenRange r) { return std::to_string(r.first) + ".." + std::to_string(r.last); }

// "20..99"
mamba::task::TokenRange range_of(const std::string& text) {
  int first = 0, last = 0, used = 0;
  if (std::sscanf(text.c_str(), "%d..%d%n", &first, &last, &used) != 2 || static_cast<std::size_t>(used) != text.size())
    throw CLI::ValidationError("a range is written as FIRST..LAST, for example 20..99; given " + text);
  return {first, last};
}

// runs/NAME, or the first of runs/NAME-2, -3, ... that is not there yet.
std::filesystem::path fresh_folder(const std::string& name) {
  std::filesystem::path path = std::filesystem::path("runs") / name;
  for (int n = 2; std::filesystem::exists(path); ++n) path = std::filesystem::path("runs") / (name + "-" + std::to_string(n));
  return path;
}

// The preset's name is needed before the other options' defaults are known.
std::string preset_name(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--preset" && i + 1 < argc) return argv[i + 1];
    if (argument.starts_with("--preset=")) return std::string(argument.substr(9));
  }
  return "paper";
}

int run(int argc, char** argv) {
  std::string preset_text = preset_name(argc, argv);
  Options o = composite_run::preset(preset_text);
  mamba::Schedule& schedule = o.training.schedule;

  CLI::App app{
      "Trains a Mamba model on the composite function task (arXiv 2509.17514) and says which solution it prefers.\n"
      "Without options: the paper's protocol. --preset quick shows the effect in minutes."};
  app.footer(support::exit_code_help);
  app.set_version_flag("--version", MAMBA_VERSION);
  app.option_defaults()->always_capture_default();
  std::string gamma = o.gamma ? Json(*o.gamma).dump() : "default", filler = text_of(o.task.filler), keys = text_of(o.task.keys), device = "auto";
  long epochs = schedule.total, steps = schedule.total;

  app.add_option("--preset", preset_text, "where the other options' defaults come from")->check(CLI::IsMember({"paper", "quick"}));
  app.add_option("--mixer", o.variant.mixer, "which block mixes the tokens")->check(CLI::IsMember({"mamba1", "mamba2"}));
  app.add_option("--conv", o.variant.conv, "the convolution's kernel: learned, all ones, all ones with its bias zero")
      ->check(CLI::IsMember({"learned", "ones", "ones-frozen"}));
  app.add_option("--position", o.variant.position, "what is added to the embedding")->check(CLI::IsMember({"none", "learned", "sinusoidal"}));
  app.add_option("--residual", o.variant.residual, "what bypasses the convolution")->check(CLI::IsMember({"none", "identity", "gate", "linear"}));
  app.add_option("--layers", o.layers, "number of layers")->check(CLI::Range(1, 1000));
  app.add_option("--gamma", gamma, "initialisation: weights ~ Normal(0, d1^-2gamma); 'default': mamba_ssm's own");
  app.add_option("--seed", o.seed, "of initial weights, data and order");
  auto* const epochs_option = app.add_option("--epochs", epochs, "length of the run; the rate changes once an epoch")->check(CLI::PositiveNumber);
  auto* const steps_option =
      app.add_option("--steps", steps, "the same in steps; the rate changes every step")->check(CLI::PositiveNumber)->excludes(epochs_option);
  (o.training.schedule_in_steps ? epochs_option : steps_option)->default_str("");
  app.add_option("--batch-size", o.training.batch_size, "sequences a step")->check(CLI::PositiveNumber);
  app.add_option("--lr", schedule.lr, "learning rate after the warm-up");
  app.add_option("--initial-lr", schedule.initial_lr, "learning rate at the start");
  app.add_option("--final-lr", schedule.final_lr, "learning rate at the end");
  auto* const warmup_option =
      app.add_option("--warmup", schedule.warmup, "epochs or steps of warm-up, as the run is counted; unless given, at most a tenth of the run");
  app.add_option("--weight-decay", o.training.weight_decay, "AdamW's, on every parameter");
  app.add_option("--clip", o.training.clip, "largest gradient norm");
  app.add_option("--train-samples", o.task.train_samples, "size of the training set");
  app.add_option("--eval-samples", o.task.eval_samples, "size of each pair's test set");
  auto* const eval_option = app.add_option("--eval-every", o.eval_every, "epochs or steps between evaluations")->check(CLI::PositiveNumber);
  app.add_option("--filler", filler, "tokens of the filler, FIRST..LAST");
  app.add_option("--keys", keys, "tokens of the keys, FIRST..LAST");
  app.add_option("--device", device, "where to train: auto (a GPU if there is one), cpu, cuda or cuda:N");
  app.add_option("--threads", o.threads, "0: all cores; the result does not depend on it")->check(CLI::NonNegativeNumber);
  app.add_option("--out", o.out, "folder for the results; unless given, a new one in runs/");
  app.add_flag("--resume", o.resume, "continue the stopped run in --out");
  app.add_option("--evaluate", o.evaluate, "only evaluate this model or checkpoint");
  app.add_flag("--json", o.json, "the result as JSON on standard output");

  try {
    app.parse(argc, argv);
    o.task.filler = range_of(filler), o.task.keys = range_of(keys);
    if (gamma == "default") o.gamma.reset();
    else if (!CLI::detail::lexical_cast(gamma, o.gamma.emplace())) throw CLI::ValidationError("--gamma is a number or 'default'; given " + gamma);
    if (o.resume && o.out.empty()) throw CLI::ValidationError("--resume needs --out, the folder of the stopped run");
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? support::done : support::usage;
  }
  if (*steps_option || *epochs_option) {
    const bool in_steps = static_cast<bool>(*steps_option);
    if (in_steps != o.training.schedule_in_steps && !*eval_option) o.eval_every = in_steps ? std::max(1L, steps / 20) : 1;
    o.training.schedule_in_steps = in_steps;
    schedule.total = in_steps ? steps : epochs;
  }
  if (!*warmup_option) schedule.warmup = std::min(schedule.warmup, schedule.total / 10);

  try {
    const auto choice = mamba::DeviceChoice::parse(device);
    const bool on_gpu = choice.use_gpu(composite_run::gpu_problem(choice.index));
    const auto& all_built = on_gpu ? composite_run::all_built_for_gpus() : composite_run::all_built();
    o.gpu = choice.index;
    if (!o.evaluate.empty()) {
      o.task.seed = o.seed;
      const auto file = mamba::io::SafetensorsFile::read(o.evaluate);
      o.layers = mamba::layers_in(file);
      const bool chosen = app.count("--mixer") + app.count("--conv") + app.count("--position") + app.count("--residual") > 0;
      if (const auto variant = composite_run::variant_of(file); variant && !chosen) o.variant = *variant;
      return find_variant(all_built, o.variant).evaluate(o);
    }
    if (o.resume) {
      const auto path = o.out / "checkpoint.safetensors";
      const Json stopped = mamba::read_checkpoint_notes(mamba::io::SafetensorsFile::read(path)).at("options"), asked = composite_run::recorded(o);
      // Options of the command line must agree with the run's; those not given come from it.
      Options of_run = o;
      composite_run::restore(of_run, stopped);
      const auto given = [&](const char* option) { return app.get_option(option)->count() > 0; };
      const auto same = [&](const char* option, const char* key) {
        if (given(option) && asked.at(key).dump() != stopped.at(key).dump())
          mamba::fail(mamba::ErrorKind::invalid_argument, option, " ", asked.at(key).dump(), " differs from the stopped run's ", stopped.at(key).dump());
      };
      for (const auto& [option, key] : {std::pair{"--layers", "n_layers"},
                                        {"--mixer", "mixer"},
                                        {"--conv", "conv"},
                                        {"--position", "position"},
                                        {"--residual", "residual"},
                                        {"--gamma", "gamma"},
                                        {"--seed", "seed"},
                                        {"--epochs", "total"},
                                        {"--steps", "total"},
                                        {"--epochs", "schedule_unit"},
                                        {"--steps", "schedule_unit"},
                                        {"--batch-size", "batch_size"},
                                        {"--lr", "lr"},
                                        {"--initial-lr", "initial_lr"},
                                        {"--final-lr", "final_lr"},
                                        {"--warmup", "warmup"},
                                        {"--weight-decay", "weight_decay"},
                                        {"--clip", "clip"},
                                        {"--train-samples", "train_samples"},
                                        {"--eval-samples", "eval_samples"},
                                        {"--eval-every", "eval_every"},
                                        {"--filler", "filler"},
                                        {"--keys", "keys"}})
        same(option, key);
      o = of_run;
    }
    o.task.seed = o.training.seed = o.seed;
    const auto& built = find_variant(all_built, o.variant);
    if (o.out.empty()) {
      std::string name = composite_run::title_of(o.variant);
      for (auto at = name.find(", "); at != std::string::npos; at = name.find(", ")) name.replace(at, 2, "-");
      std::replace(name.begin(), name.end(), ' ', '-');
      o.out = fresh_folder(name + "-" + preset_text + "-layers" + std::to_string(o.layers) + "-gamma" + gamma + "-seed" + std::to_string(o.seed));
    } else if (!o.resume && std::filesystem::exists(o.out / "checkpoint.safetensors")) {
      mamba::fail(mamba::ErrorKind::invalid_argument, o.out.string(), " already holds a run: continue it with --resume, or name another folder");
    }
    return built.train(o);
  } catch (const mamba::Error& error) {
    std::fprintf(stderr, "train_composite: %s\n", error.what());
    return support::exit_code(error);
  }
}

}  // namespace

int main(int argc, char** argv) { return run(argc, argv); }
