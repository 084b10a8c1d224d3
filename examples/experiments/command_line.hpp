// The options that the programs share, and the program that trains one model on one task.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/arguments.hpp"
#include "support/device.hpp"
#include "support/processes.hpp"
#include "support/resuming.hpp"
#include "variants.hpp"

namespace runs {

inline void add_variant_options(CLI::App& app, Variant& v) {
  for_each_answer(v, [&](const char* option, const char* what, const std::vector<std::string>& words,
                         std::string& word) { app.add_option(option, word, what)->check(CLI::IsMember(words)); });
  app.add_option("--vocab-size", v.vocab_size, "tokens that the model knows; 0: as many as the task's own")
      ->check(CLI::NonNegativeNumber);
}

inline std::vector<std::string> variant_options() {
  std::vector<std::string> options{"--vocab-size"};
  Variant v;
  for_each_answer(v, [&](const char* option, auto&&...) { options.emplace_back(option); });
  return options;
}

// Of --layers, and of --epochs or --steps.
inline const CLI::Validator is_depth = CLI::Range(1, most_layers), is_length = CLI::Range(1L, longest_run);

// A run's numbers, ranges and length as options. Their defaults are those that `o` has.
template <class Experiment>
class RunOptions {
 public:
  // but: options that the program has otherwise, or not.
  RunOptions(CLI::App& app, Options<Experiment>& o, const std::vector<std::string>& but = {})
      : app_(app), o_(o), total_(o.training.schedule.total), steps_(total_) {
    epochs_option_ = app.add_option("--epochs", total_, "length of a run")->check(is_length);
    steps_option_ = app.add_option("--steps", steps_, "the same in steps; the rate changes every step")
                        ->check(is_length)
                        ->excludes(epochs_option_);
    (o.training.schedule_in_steps ? epochs_option_ : steps_option_)->default_str("");
    for_each_field(o, [&](const char* option, const char* what, auto& field) {
      if (std::find(but.begin(), but.end(), option) != but.end()) return;
      if constexpr (std::is_same_v<std::remove_reference_t<decltype(field)>, mamba::task::TokenRange>)
        app.add_option(option, texts_[option] = support::text_of(field), what);
      else if constexpr (std::is_enum_v<std::remove_reference_t<decltype(field)>>) {
        const auto names = names_of(field);
        app.add_option(option, texts_[option] = name_of_value(field), what)
            ->check(CLI::IsMember(std::vector<std::string>(names.begin(), names.end())));
      } else if constexpr (std::is_same_v<std::remove_reference_t<decltype(field)>, std::uint64_t>)
        app.add_option(option, field, what)->check(support::is_seed);
      else if (const std::string name = option; name == "--batch-size" || name == "--eval-every")
        app.add_option(option, field, what)->check(CLI::PositiveNumber);
      else if (name == "--warmup") app.add_option(option, field, what)->check(CLI::Range(0L, longest_run));
      else app.add_option(option, field, what);
    });
    fan_ = name_of(o.gamma_fan), biases_ = o.gamma_zeroes_biases ? "zero" : "own";
    app.add_option("--gamma-fan", fan_,
                   "which size of a weight is gamma's d1: of its output (the first dimension) or of its input")
        ->check(CLI::IsMember({"out", "in"}));
    std::vector<std::string> roles;
    for_each_role(o.gamma_except, [&](const char* role, bool) { roles.emplace_back(role); });
    roles.emplace_back("none");
    app.add_option("--gamma-except", except_,
                   "roles of weights and biases that gamma's rule leaves to mamba_ssm's initialisation, or none")
        ->delimiter(',')
        ->check(CLI::IsMember(roles))
        ->default_str("");
    biases_option_ = app.add_option("--gamma-biases", biases_,
                                    "biases at the start: zero, or mamba_ssm's own with the step sizes 0.001 .. 0.1")
                         ->check(CLI::IsMember({"zero", "own"}));
    app.add_option("--embedding-std", o.embedding_std,
                   "standard deviation of the embedding at the start; unless given, gamma's rule, vocabulary^-gamma")
        ->default_str("");
    app.add_option("--position-std", o.position_std,
                   "standard deviation of learned positions at the start; unless given, gamma's rule")
        ->default_str("");
  }

  // After parsing: what the options said, in the run's options. Throws CLI::ValidationError.
  void finish() {
    for_each_field(o_, [&](const char* option, const char*, auto& field) {
      const auto text = texts_.find(option);
      if (text == texts_.end()) return;
      if constexpr (std::is_same_v<std::remove_reference_t<decltype(field)>, mamba::task::TokenRange>)
        field = support::range_of(text->second);
      else if constexpr (std::is_enum_v<std::remove_reference_t<decltype(field)>>)
        support::set_from_json(field, Json(text->second));
    });
    o_.variant.vocab_size = named_vocab_size<Experiment>(o_.variant.vocab_size);
    // A preset's own biases are gamma's; without gamma they mean nothing.
    o_.gamma_zeroes_biases = *biases_option_ || o_.gamma ? biases_ == "zero" : true;
    if (except_ == std::vector<std::string>{"none"}) o_.gamma_except = {};
    else if (!except_.empty()) o_.gamma_except = except_of(except_);
    else settle_gamma_except(o_);
    o_.gamma_fan = fan_ == "in" ? mamba::Fan::in : mamba::Fan::out;
    if (!*epochs_option_ && !*steps_option_) return;
    const long warmup = o_.training.schedule.warmup, eval_every = o_.eval_every;
    set_length(o_, *steps_option_ ? steps_ : total_, static_cast<bool>(*steps_option_));
    if (app_.count("--warmup") > 0) o_.training.schedule.warmup = warmup;
    if (app_.count("--eval-every") > 0) o_.eval_every = eval_every;
  }

 private:
  CLI::App& app_;
  Options<Experiment>& o_;
  long total_, steps_;
  std::string fan_, biases_;
  CLI::Option* biases_option_ = nullptr;
  std::vector<std::string> except_;
  std::map<std::string, std::string> texts_;
  CLI::Option *epochs_option_ = nullptr, *steps_option_ = nullptr;
};

namespace detail {

// "mamba2-learned-position"
inline std::string folder_name(const Variant& v) {
  std::string name = title_of(v);
  for (auto at = name.find(", "); at != std::string::npos; at = name.find(", ")) name.replace(at, 2, "-");
  std::replace(name.begin(), name.end(), ' ', '-');
  return name;
}

// The options of a file's run, but for those that the command line gives: from a checkpoint's notes, or the record
// beside a model. Without either o. Throws Error(bad_file) for what is wrong in the record; what the command line says
// is not checked.
template <class Experiment>
Options<Experiment> options_of_file(const Options<Experiment>& o, const mamba::io::SafetensorsFile& file,
                                    const std::filesystem::path& path, const CLI::App& app) {
  const auto of_run = record_of(file, path);
  if (!of_run) return o;
  Options<Experiment> merged = o;
  restore(merged, of_run->options, of_run->path);
  const Json asked = recorded(o);
  Json::Members members = recorded(merged).members();
  for (auto& [name, value] : members) {
    std::string option = "--" + name;
    std::replace(option.begin(), option.end(), '_', '-');
    if (app.get_option_no_throw(option) && app.count(option) > 0) value = asked.at(name);
  }
  take_over(merged, Json(members));
  return merged;
}

// A file's variant, but for the answers that the command line gives.
inline Variant asked_of(Variant of_file, Variant asked, const CLI::App& app) {
  std::map<std::string, std::string> words;
  for_each_answer(asked, [&](const char* option, const char*, const auto&, const std::string& word) {
    if (app.count(option) > 0) words[option] = word;
  });
  for_each_answer(of_file, [&](const char* option, const char*, const auto&, std::string& word) {
    if (const auto given = words.find(option); given != words.end()) word = given->second;
  });
  if (app.count("--vocab-size") > 0) of_file.vocab_size = asked.vocab_size;
  return of_file;
}

// Only what chooses the task and its test sets, the variant, and where and how to tell means something for a file that
// is evaluated. Throws CLI::ParseError on anything else.
template <class Experiment>
void check_evaluation(const CLI::App& app, Options<Experiment> o) {
  std::vector<std::string> means = variant_options();
  for (const char* option : {"--evaluate", "--preset", "--seed", "--device", "--threads", "--json"})
    means.emplace_back(option);
  Experiment::for_each_field(o.task, [&](const char* option, const char*, auto&) { means.emplace_back(option); });
  for (const CLI::Option* option : app.get_options())
    if (option->count() > 0 && std::find(means.begin(), means.end(), option->get_name()) == means.end())
      throw CLI::ExcludesError("--evaluate", option->get_name());
}

// The options of the run that stopped in o.out. Throws Error where one that the command line gives is another.
template <class Experiment>
Options<Experiment> stopped_run(const Options<Experiment>& o, const CLI::App& app) {
  const auto path = o.out / "checkpoint.safetensors";
  const auto file = mamba::io::SafetensorsFile::read(path);
  Options<Experiment> of_run = o;
  restore(of_run, support::from_file(path, [&] { return notes_of(file, path).at("options"); }), path);
  const Json stopped = recorded(of_run), asked = recorded(o);
  const auto same = [&](const std::string& option, const std::string& key) {
    if (app.count(option) > 0) support::check_same_option(option, asked.at(key), stopped.at(key));
  };
  same("--layers", "n_layers");
  for (const char* length : {"--epochs", "--steps"}) same(length, "total"), same(length, "schedule_unit");
  for (const std::string& option : variant_options()) same(option, key_of(option));
  for (const char* option :
       {"--gamma", "--gamma-fan", "--gamma-except", "--gamma-biases", "--embedding-std", "--position-std"})
    same(option, key_of(option));
  for_each_field(of_run, [&](const char* option, const char*, auto&) { same(option, key_of(option)); });
  return of_run;
}

}  // namespace detail

// What a program that trains one model is.
struct TrainingProgram {
  const char *name, *description;
  const char* folder_prefix;  // of runs/...
};

// Reads the command line, trains or evaluates, returns the exit code.
template <class Experiment>
int train_program(const TrainingProgram& program, int argc, char** argv) {
  return support::guarded_together(program.name, argc, argv, [&](support::Processes& processes) -> int {
    // Of a file without a record nothing says that its run was any but the plain task's.
    const bool evaluates = !support::early_option(argc, argv, "--evaluate", "").empty();
    std::string preset_name = support::early_option(argc, argv, "--preset", evaluates ? "protocol" : "paper");
    Options<Experiment> o = preset<Experiment>(preset_name);
    if (processes.count() > 1) o.training.shards = shards_together;

    support::CommandLine app{program.description};
    std::string gamma = o.gamma ? Json(*o.gamma).dump() : "default", device = "auto";
    app.add_option("--preset", preset_name, "where the other options' defaults come from")
        ->check(CLI::IsMember(preset_names));
    add_variant_options(app, o.variant);
    app.add_option("--layers", o.layers, "number of layers")->check(is_depth);
    app.add_option("--gamma", gamma, "initialisation: weights ~ Normal(0, d1^-2gamma); 'default': mamba_ssm's own");
    RunOptions<Experiment> run_options(app, o);
    app.add_option("--device", device, "where to train: auto (a GPU if there is one), cpu, cuda or cuda:N");
    app.add_option("--threads", o.threads, "0: all cores; the result does not depend on it")
        ->check(CLI::NonNegativeNumber);
    [[maybe_unused]] support::TogetherOptions together_options(app);
    app.add_option("--out", o.out, "folder for the results; unless given, a new one in runs/");
    app.add_flag("--resume", o.resume, "continue the stopped run in --out");
    app.add_option("--evaluate", o.evaluate,
                   "only evaluate this model or checkpoint, on its run's task unless told otherwise");
    app.add_flag("--json", o.json, "the result as JSON on standard output");
    const auto ends = support::parse(app, argc, argv, [&] {
      if (gamma == "default") o.gamma.reset();
      else o.gamma = support::number_of("--gamma", gamma);
      run_options.finish();
      if (!o.evaluate.empty()) detail::check_evaluation(app, o);
      if (o.resume && o.out.empty()) throw CLI::ValidationError("--resume needs --out, the folder of the stopped run");
    });
    if (ends) return *ends;

    mamba::Group& group = processes.group();
    mamba::DeviceChoice choice;
    const Variants<Experiment>* variants = nullptr;
    mamba::together(group, [&] {
      if (o.resume) o = detail::stopped_run(o, app);
      // A batch in shards is the CPU's.
      const bool on_cpu = device == "auto" && o.training.shards > 1;
      if (on_cpu && group.is_first() && gpu_count() > 0)
        std::fprintf(stderr, "On the CPU: batches in shards are trained there\n");
      choice = mamba::DeviceChoice::parse(on_cpu ? "cpu" : device);
      variants = &variants_of(Experiment{}, support::use_gpu(choice, gpu_problem));
    });
    o.gpu = choice.index;
    if (!o.evaluate.empty()) {
      const auto file = mamba::io::SafetensorsFile::read(o.evaluate);
      const Variant asked = o.variant;
      if (!record_of(file, o.evaluate))
        std::fprintf(stderr, "%s has no record of its run: its task is that of --preset %s, but for what is given\n",
                     o.evaluate.c_str(), preset_name.c_str());
      o = detail::options_of_file(o, file, o.evaluate, app);
      if (const auto variant = variant_of<Experiment>(file, o.evaluate))
        o.variant = detail::asked_of(*variant, asked, app);
      o.layers = layers_of(file, o.evaluate);
      // What only decides how a model starts means nothing for one that is there.
      o.gamma_except = {}, o.embedding_std.reset(), o.position_std.reset();
      const auto& built = find_variant(*variants, o.variant);
      check(o, built.longest);
      return built.evaluate(o, file);
    }
    const auto& built = find_variant(*variants, o.variant);
    check(o, built.longest);
    mamba::in_first(group, [&] {
      if (o.out.empty())
        o.out = support::create_fresh_folder(std::filesystem::path("runs") /
                                             (program.folder_prefix + detail::folder_name(o.variant) + "-" +
                                              preset_name + "-layers" + std::to_string(o.layers) + "-gamma" + gamma +
                                              "-seed" + std::to_string(o.seed)));
    });
    o.out = mamba::from_first(group, o.out.string());
    std::optional<support::OwnFolder> folder;
    mamba::together(group, [&] {
      folder.emplace(o.out, group);
      if (group.is_first() && !o.resume) support::check_no_run(folder->path());
    });
    return built.train(o, *folder, group, program.name);
  });
}

}  // namespace runs
