// The paper's comparisons of variants, and what its open details decide.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "command_line.hpp"
#include "comparison.hpp"

namespace {

namespace fs = std::filesystem;
using comparison::Comparison, comparison::ComparisonOf, comparison::Factor, comparison::Job, comparison::Line,
    comparison::Settings;
using runs::Composite, runs::FullSymmetry, runs::Inverse;

template <class Experiment>
using Options = runs::Options<Experiment>;

std::vector<std::unique_ptr<Comparison>> all_comparisons() {
  std::vector<std::unique_ptr<Comparison>> all;
  const auto add = [&]<class Experiment>(Experiment, const char* name, const char* question, auto common,
                                         std::vector<Line<Experiment>> lines) {
    all.push_back(std::make_unique<ComparisonOf<Experiment>>(name, question, common, std::move(lines)));
  };
  const auto add_design = [&]<class Experiment>(Experiment, const char* name, const char* question, auto common,
                                                const std::vector<Factor<Experiment>>& factors) {
    all.push_back(std::make_unique<ComparisonOf<Experiment>>(name, question, common, factors));
  };
  const auto nothing = [](auto&) {};

  add(Composite{}, "ones-conv", "Does a convolution of ones turn the preference?",
      [](Options<Composite>& o) { o.layers = 5, o.gamma = 1.0; },
      {{"standard", nothing},
       {"ones, bias learned",
        [](auto& o) { o.variant.conv = "ones"; }},  // the paper does not say what becomes of the bias
       {"ones, bias zero", [](auto& o) { o.variant.conv = "ones-frozen"; }}});

  add(Composite{}, "positions", "Do positions turn the preference?",
      [](Options<Composite>& o) { o.layers = 2, o.gamma = 0.5; },
      {{"standard", nothing},
       {"learned positions", [](auto& o) { o.variant.position = "learned"; }},
       {"learned, from 0.02", [](auto& o) { o.variant.position = "learned", o.position_std = 0.02; }},
       {"sinusoidal positions", [](auto& o) { o.variant.position = "sinusoidal"; }}});

  add(FullSymmetry{}, "full-symmetry", "Does a model that knows (3,4) know (4,3)?",
      [](Options<FullSymmetry>& o) { o.layers = 2, o.gamma = 0.5; },
      {{"standard", [](auto& o) { o.gamma_zeroes_biases = true; }},
       {"biases of mamba_ssm", [](auto& o) { o.gamma_zeroes_biases = false; }}});

  const auto solving = [](double gamma) {
    return [gamma](Options<Inverse>& o) {
      o.gamma = gamma, o.gamma_zeroes_biases = true;
      o.variant.residual = "identity", o.variant.position = "learned", o.position_std = 0.02;
    };
  };
  add(Inverse{}, "inverse", "Which blocks match inverse sequences?", [](Options<Inverse>& o) { o.layers = 2; },
      {{"standard, gamma 0.5", [](auto& o) { o.gamma = 0.5, o.gamma_zeroes_biases = true; }},
       {"standard, gamma 0.5, biases of mamba_ssm", [](auto& o) { o.gamma = 0.5, o.gamma_zeroes_biases = false; }},
       {"standard, gamma 1", [](auto& o) { o.gamma = 1.0, o.gamma_zeroes_biases = true; }},
       {"residual and positions, gamma 0.5", solving(0.5)},
       {"residual and positions, gamma 0.5, biases of mamba_ssm",
        [solving](auto& o) { solving(0.5)(o), o.gamma_zeroes_biases = false; }},
       {"residual and positions, gamma 1", solving(1.0)},
       // The wider the vocabulary, the narrower the embedding starts: with 1000 tokens, as --preset protocol has them,
       // at .001, which the norm's epsilon does not let through.
       {"residual and positions, gamma 1, embedding from 0.02",
        [solving](auto& o) { solving(1.0)(o), o.embedding_std = 0.02; }}});

  static constexpr mamba::task::TokenRange everything{0, 99};
  add(Composite{}, "one-by-one", "What does one detail decide?",
      [](Options<Composite>& o) { o.layers = 3, o.gamma = 1.0; },
      {{"standard", nothing},
       {"filler 0..99", [](auto& o) { o.task.filler = everything; }},
       {"widest keys",  // sums may not be negative
        [](auto& o) { o.task.keys = {o.task.labels == mamba::task::Labels::sum ? 16 : 0, 99}; }},
       {"d1 of the input", [](auto& o) { o.gamma_fan = mamba::Fan::in; }},
       {"biases the other way", [](auto& o) { o.gamma_zeroes_biases = !o.gamma_zeroes_biases; }},
       {"both of these", [](auto& o) { o.gamma_fan = mamba::Fan::in, o.gamma_zeroes_biases = !o.gamma_zeroes_biases; }},
       {"clipping the other way", [](auto& o) { o.training.clip = o.training.clip > 1 ? 1 : 1e9; }},
       {"learning rate 1e-3", [](auto& o) { o.training.schedule.lr = 1e-3; }}});

  add_design(
      Composite{}, "details", "Which details decide?",
      [](Options<Composite>& o) {
        o.layers = 3, o.gamma = 1.0;
        if (!o.training.schedule_in_steps) o.eval_every = 1;
      },
      {{{"head", "tied", "untied"},
        [](auto& o) { o.variant.head = "tied"; },
        [](auto& o) { o.variant.head = "untied"; }},
       {{"labels", "modulo", "sum"},
        [](auto& o) { o.task.labels = mamba::task::Labels::modulo, o.variant.vocab_size = 0; },
        [](auto& o) { o.task.labels = mamba::task::Labels::sum, o.variant.vocab_size = 201; }},
       {{"convolution", "gamma", "default"},
        [](auto& o) { o.gamma_except.convolution = false; },
        [](auto& o) { o.gamma_except.convolution = true; }},
       {{"biases", "zero", "own"},
        [](auto& o) { o.gamma_zeroes_biases = true; },
        [](auto& o) { o.gamma_zeroes_biases = false; }},
       {{"d1", "output", "input"},
        [](auto& o) { o.gamma_fan = mamba::Fan::out; },
        [](auto& o) { o.gamma_fan = mamba::Fan::in; }},
       {{"clipping", "to 1", "none"}, [](auto& o) { o.training.clip = 1; }, [](auto& o) { o.training.clip = 1e9; }},
       {{"schedule", "epochs", "steps"},
        [](auto& o) { o.training.rate_changes = mamba::RateChanges::each_epoch; },
        [](auto& o) { o.training.rate_changes = mamba::RateChanges::each_step; }},
       {{"products", "exact", "tf32"},
        [](auto& o) { o.products = mamba::Products::exact; },
        [](auto& o) { o.products = mamba::Products::tf32; }}});
  return all;
}

int run(int argc, char** argv, support::Processes& processes) {
  const auto all = all_comparisons();
  std::vector<std::string> known{"all"};
  std::string list;
  for (const auto& c : all) {
    known.push_back(c->name);
    list += "  " + c->name + std::string(16 - c->name.size(), ' ') + c->question + "\n";
  }
  Settings s;
  s.out = "runs/compare_variants";
  std::string device = "auto", mixer_choice = "mamba2";
  std::vector<std::string> chosen{"ones-conv", "positions", "full-symmetry"};

  support::CommandLine app{
      "Trains variants of a model over several seeds and draws their curves side by side (arXiv 2509.17514):\n" + list +
      "A run that has ended is never run again: the same command goes on after a stop, and draws what is there. "
      "Processes that\nmpirun or srun starts together share out the runs."};
  app.add_option("comparisons", chosen, "which, or all: all but details, which is longer than the others together")
      ->check(CLI::IsMember(known));
  app.add_option(
         "--preset", s.preset,
         "paper, protocol, achilles: as train_composite's; small: shorter runs of smaller batches, in minutes on "
         "a CPU")
      ->check(CLI::IsMember({"paper", "protocol", "achilles", "small"}));
  app.add_option(
         "--mixer", mixer_choice,
         "mamba2, which the paper's Mamba is, mamba1, mamba3 (which has no variants of a convolution), or both: the "
         "first two")
      ->check(CLI::IsMember({"mamba1", "mamba2", "mamba3", "both"}));
  app.add_option("--seeds", s.seeds, "how many, from 0 on")->check(CLI::Range(1, 1000));
  const auto own = [&](const char* name, auto& value, const char* what,
                       const CLI::Validator& valid = CLI::PositiveNumber) {
    return app.add_option(name, value, what)->check(valid)->default_str("");
  };
  auto* const epochs = own("--epochs", s.epochs, "length of each run; unless given, the preset's", runs::is_length);
  own("--steps", s.steps, "the same in steps; the rate changes every step", runs::is_length)->excludes(epochs);
  own("--layers", s.layers, "of the models; unless given, each comparison's", runs::is_depth);
  app.add_option("--gamma", s.gamma, "of lines that have none of their own; unless given, each comparison's")
      ->check(CLI::NonNegativeNumber)
      ->default_str("");
  app.add_option("--lr", s.lr, "learning rate after the warm-up of lines that have none of their own")
      ->check(CLI::PositiveNumber)
      ->default_str("");
  own("--batch-size", s.batch_size, "sequences a step; unless given, the preset's");
  own("--train-samples", s.train_samples, "size of the training set; unless given, the task's");
  own("--eval-samples", s.eval_samples, "size of each test set; unless given, the task's");
  app.add_option("--device", device, "auto, cpu, cuda, cuda:N, or all GPUs at once: all");
  app.add_option("--threads", s.threads, "of the CPU; 0: all cores")->check(CLI::NonNegativeNumber);
  [[maybe_unused]] support::TogetherOptions together_options(app);
  app.add_option("--out", s.out, "folder of the comparisons");
  if (const auto ends = support::parse(app, argc, argv)) return *ends;
  const auto wanted = [&](const Comparison& c) {
    return std::any_of(chosen.begin(), chosen.end(),
                       [&](const std::string& name) { return name == c.name || (name == "all" && !c.is_design()); });
  };
  const std::vector<std::string> mixers =
      mixer_choice == "both" ? std::vector<std::string>{"mamba2", "mamba1"} : std::vector{mixer_choice};
  const auto for_each_wanted = [&](auto&& f) {
    for (const std::string& mixer : mixers)
      for (const auto& c : all) {
        s.mixer = mixer;
        if (wanted(*c) && c->applies_to(s)) f(*c);
      }
  };
  for (const auto& c : all)
    if (s.mixer = mixers[0]; wanted(*c) && !c->applies_to(s)) {
      mamba::require(app.count("comparisons") == 0 || chosen == std::vector<std::string>{"all"}, c->name,
                     " compares convolutions, which ", s.mixer, " has not");
      std::fprintf(stderr, "Without %s, which compares convolutions: %s has none\n", c->name.c_str(), s.mixer.c_str());
    }
  mamba::Group& group = processes.group();
  const auto places = runs::places_of(device, processes);
  const auto all_jobs = [&] {
    std::vector<Job> jobs;
    for_each_wanted([&](const Comparison& c) {
      std::vector<Job> some = c.jobs(s, runs::on_gpu(places));
      std::move(some.begin(), some.end(), std::back_inserter(jobs));
    });
    return jobs;
  };
  mamba::together(group, [&] { all_jobs(); });  // what is refused is refused before anything is written
  std::optional<support::OwnFolder> folder;
  std::vector<Job> jobs;
  mamba::together(group, [&] { folder.emplace(s.out, group), jobs = all_jobs(); });
  const int code = runs::work_through(
      jobs, places, processes, [](const Job& job) { return job.is_done(); },
      [](const Job& job, int place) { return job.run(place); },
      [](const Job& job, const runs::Outcome& outcome) { return job.told(outcome); });
  if (!group.is_first()) return code;
  for_each_wanted([&](const Comparison& c) { c.report(s); });
  std::printf(
      "\nIn %s: for each comparison a figure (.svg), the runs' results (.csv) and their curves (-curves.csv).\n",
      s.out.string().c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  return support::guarded_together("compare_variants", argc, argv,
                                   [&](support::Processes& processes) { return run(argc, argv, processes); });
}
