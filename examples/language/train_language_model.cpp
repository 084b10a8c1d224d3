// Trains a language model on text files, and leaves a folder that generate and Hugging Face transformers take.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <mamba/model/device.hpp>

#include "support/arguments.hpp"
#include "support/device.hpp"
#include "support/folder.hpp"
#include "support/gpu.hpp"
#include "support/processes.hpp"
#include "support/resuming.hpp"
#include "training.hpp"

namespace language {
namespace {

// The type that has room for so many tokens, and for few more. Throws Error(invalid_argument) that lists those that
// there are.
const BuiltTraining& find(const std::vector<BuiltTraining>& all, const TrainingOptions& o, int tokens) {
  const BuiltTraining* best = nullptr;
  std::string table;
  for (const BuiltTraining& own : all) {
    table += std::string("\n  ") + own.mixer + "  width " + std::to_string(own.width) + "  vocabulary " +
             std::to_string(own.vocab_size);
    if (own.mixer == o.mixer && own.width == o.width && own.vocab_size >= tokens &&
        (!best || own.vocab_size < best->vocab_size))
      best = &own;
  }
  if (!best)
    mamba::fail(mamba::ErrorKind::invalid_argument, "this program was not built for ", o.mixer, " of width ", o.width,
                " and ", tokens, " tokens. One more line of mamba_trained_sizes in examples/language/sizes.cmake is ",
                "one more size; these there are:", table);
  return *best;
}

// The options of the run that stopped in o.out. Throws Error where one that the command line gives is another.
TrainingOptions stopped_run(const TrainingOptions& o, const CLI::App& app) {
  const auto path = o.out / "checkpoint.safetensors";
  const auto file = mamba::io::SafetensorsFile::read(path);
  TrainingOptions of_run = o;
  restore(of_run, support::from_file(path, [&] { return mamba::read_checkpoint_notes(file).at("options"); }), path);
  const Json stopped = recorded(of_run), asked = recorded(o);
  for_each_field(of_run, [&](const char* option, const char*, auto&) {
    if (app.count(option) == 0 || option == std::string("--tokenizer")) return;
    const std::string key = support::key_of(option);
    support::check_same_option(option, asked.at(key), stopped.at(key));
  });
  // Where text and tokenizer lie now; that they are the same the run's fingerprint says.
  if (app.count("--text") > 0) of_run.texts = o.texts;
  if (app.count("--tokenizer") > 0) of_run.tokenizer = o.tokenizer;
  return of_run;
}

// One option for each field.
class FieldOptions {
 public:
  FieldOptions(CLI::App& app, TrainingOptions& o) : app_(app), o_(o) {
    for_each_field(o, [&](const char* option, const char* what, auto& field) {
      using Field = std::remove_reference_t<decltype(field)>;
      if constexpr (std::is_same_v<Field, bool>) {
        app.add_flag(option, field, what);
      } else if constexpr (std::is_enum_v<Field>) {
        const auto names = support::names_of(field);
        app.add_option(option, words_[option] = support::name_of_value(field), what)
            ->check(CLI::IsMember(std::vector<std::string>(names.begin(), names.end())));
      } else {
        CLI::Option* const added = app.add_option(option, field, what);
        if constexpr (std::is_same_v<Field, std::uint64_t>) added->check(support::is_seed);
        if (option == std::string("--mixer")) added->check(CLI::IsMember({"mamba1", "mamba2", "mamba3"}));
        if (option == std::string("--sample-prompt")) added->default_str("a line's end");
      }
    });
  }

  // After parsing. A run that is shorter than its preset's has a shorter warm-up, and is evaluated.
  void finish() {
    for_each_field(o_, [&](const char* option, const char*, auto& field) {
      if constexpr (std::is_enum_v<std::remove_reference_t<decltype(field)>>)
        support::set_from_json(field, Json(words_.at(option)));
    });
    mamba::Schedule& schedule = o_.schedule;
    if (app_.count("--warmup") == 0) schedule.warmup = std::min(schedule.warmup, schedule.total / 10);
    if (app_.count("--eval-every") == 0) o_.eval_every = std::clamp(schedule.total / 4, 1L, o_.eval_every);
  }

 private:
  CLI::App& app_;
  TrainingOptions& o_;
  std::map<std::string, std::string> words_;
};

// Of runs whose processes were started together, unless they say how many; fewer where a batch has fewer sequences.
constexpr int shards_together = 8;

int run(int argc, char** argv, support::Processes& processes) {
  std::string preset_name = support::early_option(argc, argv, "--preset", "tiny"), device = "auto";
  TrainingOptions o = preset(preset_name);
  if (processes.count() > 1) o.shards = shards_together;
  support::CommandLine app{
      "Trains a language model on text, and leaves a folder that generate and Hugging Face transformers take.\n"
      "With --text alone: three minutes on two cores, a byte a token."};
  app.add_option("--preset", preset_name, "where the other options' defaults come from")
      ->check(CLI::IsMember(preset_names));
  app.add_option("--text", o.texts, "files to learn from, one behind the other (required but to resume)");
  FieldOptions fields(app, o);
  app.add_option("--device", device, "where to train: auto (a GPU if there is one), cpu, cuda or cuda:N");
  app.add_option("--threads", o.threads, "0: all cores; the result does not depend on it")
      ->check(CLI::NonNegativeNumber);
  [[maybe_unused]] support::TogetherOptions together_options(app);
  app.add_option("--out", o.out, "folder for the results; unless given, a new one in runs/");
  app.add_flag("--resume", o.resume, "continue the stopped run in --out");
  app.add_flag("--json", o.json, "the result as JSON on standard output");
  const auto ends = support::parse(app, argc, argv, [&] {
    fields.finish();
    if (app.count("--shards") == 0) o.shards = std::min(o.shards, o.batch);
    if (o.resume && o.out.empty()) throw CLI::ValidationError("--resume needs --out, the folder of the stopped run");
    if (!o.resume && o.texts.empty()) throw CLI::RequiredError("--text");
  });
  if (ends) return *ends;

  for (auto& text : o.texts) text = std::filesystem::absolute(text);  // a run goes on from any folder
  if (o.tokenizer != "bytes") o.tokenizer = std::filesystem::absolute(o.tokenizer).string();
  mamba::Group& group = processes.group();
  std::optional<Encoding> encoding;
  const BuiltTraining* built = nullptr;
  Corpus corpus;
  mamba::together(group, [&] {
    if (o.resume) o = stopped_run(o, app);
    o.check();
    // A batch in shards is the CPU's.
    const bool on_cpu = device == "auto" && o.shards > 1;
    if (on_cpu && group.is_first() && support::gpu_count() > 0)
      std::fprintf(stderr, "On the CPU: batches in shards are trained there\n");
    const auto choice = mamba::DeviceChoice::parse(on_cpu ? "cpu" : device);
    o.gpu = choice.index;
    const auto& trainings = support::use_gpu(choice, support::gpu_problem) ? trainings_on_gpu() : trainings_on_cpu();
    encoding.emplace(Encoding::of(o.tokenizer));
    mamba::require(!encoding->encode(o.sample_prompt, true).empty(),
                   "the tokenizer makes no token of --sample-prompt, from which samples go on");
    built = &find(trainings, o, encoding->vocab_size());
    corpus = read_corpus(o.texts, *encoding, o.held_out);
    mamba::require(corpus.held_out.size() >= 2, "the part of the text that is held out has ", corpus.held_out.size(),
                   " tokens; two are needed");
    const Pieces fits(corpus.training, o.batch, o.context, o.seed, o.carry_state);
  });
  mamba::in_first(group, [&] {
    if (o.out.empty())
      o.out = support::create_fresh_folder(std::filesystem::path("runs") /
                                           (o.texts.front().stem().string() + "-" + o.mixer + "-width" +
                                            std::to_string(o.width) + "-layers" + std::to_string(o.layers) + "-seed" +
                                            std::to_string(o.seed)));
  });
  o.out = mamba::from_first(group, o.out.string());
  std::optional<support::OwnFolder> folder;
  mamba::together(group, [&] {
    folder.emplace(o.out, group);
    if (group.is_first() && !o.resume)
      support::check_no_run(folder->path(),
                            {"config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json",
                             "tokenizer_config.json", "training_log.csv", "curves.svg", "samples.txt"});
  });
  return built->train(o, *encoding, corpus, *folder, group);
}

}  // namespace
}  // namespace language

int main(int argc, char** argv) {
  return support::guarded_together("train_language_model", argc, argv,
                                   [&](support::Processes& processes) { return language::run(argc, argv, processes); });
}
