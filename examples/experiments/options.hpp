// The options of a training run: what of it a user may say, where the defaults come from, how config.json and
// checkpoints record them.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mamba/composite.hpp>

#include "experiments.hpp"
#include "record.hpp"
#include "support/option_values.hpp"
#include "support/text_file.hpp"

namespace runs {

using support::key_of, support::name_of_value, support::names_of;

// Which of the model's variants, by the policies' names.
struct Variant {
  std::string mixer = "mamba1", conv = "learned", position = "none", residual = "none", head = "tied";
  int vocab_size = 0;  // how many tokens the model knows; 0: as many as the task's own
  bool operator==(const Variant&) const = default;
};

// f(option, what it asks, its words, field) for each question.
template <class V, class F>
void for_each_answer(V& v, F&& f) {
  using Words = std::vector<std::string>;
  f("--mixer", "which block mixes the tokens", Words{"mamba1", "mamba2", "mamba3"}, v.mixer);
  f("--conv", "the convolution's kernel: learned, all ones, all ones with its bias zero",
    Words{"learned", "ones", "ones-frozen"}, v.conv);
  f("--position", "what is added to the embedding", Words{"none", "learned", "sinusoidal"}, v.position);
  f("--residual", "what bypasses the convolution", Words{"none", "identity", "gate", "linear"}, v.residual);
  f("--head", "whose weight the head multiplies by: the embedding's, or its own", Words{"tied", "untied"}, v.head);
}

// A model's answers, but for its vocabulary.
template <class Model>
Variant answers_of() {
  using A = typename Model::Architecture;
  return {A::Mixer::name, A::ConvKernel::name, A::Position::name, A::ConvResidual::name, A::Head::name};
}

// The vocabulary as Variant names it.
template <class Experiment>
int named_vocab_size(int tokens) {
  return tokens == Experiment::config.vocab_size ? 0 : tokens;
}

template <class Experiment, class Model>
Variant built_variant() {
  Variant v = answers_of<Model>();
  v.vocab_size = named_vocab_size<Experiment>(Model::Architecture::config.vocab_size);
  return v;
}

// The sizes of an experiment's models, with a vocabulary as Variant names it.
template <class Experiment>
constexpr mamba::Config config_of(int vocab_size) {
  mamba::Config config = Experiment::config;
  if (vocab_size > 0) config.vocab_size = vocab_size;
  return config;
}

// "mamba1" and what differs from the standard block.
inline std::string title_of(const Variant& v) {
  std::string title = v.mixer;
  if (v.conv != "learned") title += ", " + v.conv + " convolution";
  if (v.position != "none") title += ", " + v.position + " position";
  if (v.residual != "none") title += ", " + v.residual + " residual";
  if (v.head != "tied") title += ", " + v.head + " head";
  if (v.vocab_size != 0) title += ", vocabulary " + std::to_string(v.vocab_size);
  return title;
}

// Experiment: one of experiments.hpp.
template <class Experiment>
struct Options {
  Variant variant;
  int layers = 2;
  std::optional<double> gamma = 1.0;
  mamba::Fan gamma_fan = mamba::Fan::out;
  mamba::GammaExcept gamma_except{};
  bool gamma_zeroes_biases = true;
  std::optional<double> embedding_std{}, position_std{};
  std::uint64_t seed = 0;  // of initial weights, data and order
  mamba::TrainingOptions training{};
  typename Experiment::TaskOptions task{};
  long eval_every = 10;  // in the schedule's unit
  mamba::Products products = mamba::Products::exact;
  mamba::Scope scope = mamba::Scope::by_sizes;
  int threads = 0;
  int gpu = 0;  // the index of the one to use, where the variant runs on one
  std::filesystem::path out;
  bool resume = false;
  std::filesystem::path evaluate;
  bool json = false, quiet = false;  // quiet: one of many runs, whose program speaks for them

  const char* unit() const { return training.schedule_in_steps ? "steps" : "epochs"; }
  mamba::ModelOptions model() const {
    return {.n_layers = layers,
            .gamma = gamma,
            .gamma_fan = gamma_fan,
            .gamma_except = gamma_except,
            .gamma_zeroes_biases = gamma_zeroes_biases,
            .embedding_std = embedding_std,
            .position_std = position_std,
            .seed = seed,
            .threads = threads,
            .device = gpu,
            .products = products,
            .scope = scope};
  }
};

// f(option, what it is, field) for all that is a number or a range of tokens and decides a run's result.
template <class Experiment, class F>
void for_each_field(Options<Experiment>& o, F&& f) {
  mamba::Schedule& schedule = o.training.schedule;
  f("--seed", "of initial weights, data and order", o.seed);
  f("--batch-size", "sequences a step", o.training.batch_size);
  f("--lr", "learning rate after the warm-up", schedule.lr);
  f("--initial-lr", "learning rate at the start", schedule.initial_lr);
  f("--final-lr", "learning rate at the end", schedule.final_lr);
  f("--rate-changes", "when the learning rate changes in a run that is counted in epochs: every epoch or every step",
    o.training.rate_changes);
  f("--warmup", "epochs or steps of warm-up, as the run is counted; unless given, at most a tenth of the run",
    schedule.warmup);
  f("--weight-decay", "AdamW's, on every parameter", o.training.weight_decay);
  f("--clip", "largest gradient norm", o.training.clip);
  f("--shards",
    "parts of a batch that processes started together share out, whose gradients are added up in a fixed order; as "
    "many processes as divide it give the same result",
    o.training.shards);
  f("--products", "how a GPU multiplies: exact, as the CPU; tf32: with 11 bits of each operand", o.products);
  f("--scope", "how much of a GPU works on a tile of a batch: auto, whichever is faster; block; grid", o.scope);
  f("--eval-every", "epochs or steps between evaluations", o.eval_every);
  Experiment::for_each_field(o.task, f);
}

// Of runs whose processes were started together, unless they say how many.
inline constexpr int shards_together = 8;

// A variant's words by their questions, as files and records name them.
inline Json json_of(const Variant& v) {
  Json::Members members;
  for_each_answer(v, [&](const char* option, const char*, const auto&, const std::string& word) {
    members.emplace_back(key_of(option), word);
  });
  return members;
}

// f(role, field) for each that gamma's rule may leave out.
template <class Except, class F>
void for_each_role(Except& except, F&& f) {
  f("embedding", except.embedding), f("position", except.position), f("projection", except.projection);
  f("convolution", except.convolution), f("head", except.head);
  f("convolution-bias", except.convolution_bias), f("step-bias", except.step_bias);
  f("key-bias", except.key_bias);
}
inline Json json_of(const mamba::GammaExcept& except) {
  Json::Elements roles;
  for_each_role(except, [&](const char* role, bool left_out) {
    if (left_out) roles.emplace_back(role);
  });
  return roles;
}
// The roles of these names. Throws Error where one has no such name, and names those that there are.
inline mamba::GammaExcept except_of(const std::vector<std::string>& roles) {
  mamba::GammaExcept except;
  for (const std::string& wanted : roles) {
    bool found = false;
    std::string all;
    for_each_role(except, [&](const char* role, bool& left_out) {
      all += (all.empty() ? "" : ", ") + std::string(role);
      if (wanted == role) left_out = found = true;
    });
    mamba::require(found, "gamma_except is of ", all, "; given ", wanted);
  }
  return except;
}

inline const char* name_of(mamba::Fan fan) { return fan == mamba::Fan::in ? "in" : "out"; }

// What decides a run's result, as config.json and checkpoints record it.
template <class Experiment>
Json recorded(Options<Experiment> o) {
  Json::Members members{{"task", Experiment::name}};
  const Json model = mamba::config_members(config_of<Experiment>(o.variant.vocab_size), o.layers, o.gamma);
  members.insert(members.end(), model.members().begin(), model.members().end());
  const auto append = [&](const Json::Members& more) { members.insert(members.end(), more.begin(), more.end()); };
  append({{"gamma_fan", name_of(o.gamma_fan)},
          {"gamma_except", json_of(o.gamma_except)},
          {"gamma_biases", o.gamma_zeroes_biases ? "zero" : "own"},
          {"embedding_std", support::json_of(o.embedding_std)},
          {"position_std", support::json_of(o.position_std)}});
  append(json_of(o.variant).members());
  append({{"schedule_unit", o.unit()}, {"total", support::json_of(o.training.schedule.total)}});
  for_each_field(o, [&](const char* option, const char*, auto& field) {
    members.emplace_back(key_of(option), support::json_of(field));
  });
  return members;
}

// A short run for a CPU, counted in steps.
template <class Experiment>
void shorten(Options<Experiment>& o, int batch_size, double lr, long warmup, long total, long eval_every) {
  o.training.batch_size = batch_size, o.eval_every = eval_every;
  o.training.schedule_in_steps = true;
  o.training.schedule = {.initial_lr = 1e-5, .lr = lr, .final_lr = 1e-5, .warmup = warmup, .total = total};
}

// Where options start from: those given beside a preset win. README.md has a table of what each assumes, and why.
//   protocol   the paper's words alone; what it leaves open is as the specification reads it
//   paper      the reading that comes closest to the paper's results: a head of its own, a convolution and biases that
//              start as mamba_ssm's, products of TF32, gradients that are not clipped, and the details of the group's
//              older code for such sequences
//   achilles   the paper's public reproduction: Mamba-1, filler from the whole vocabulary
//   quick      a short version of the protocol, which shows the effect on the composite function task and tries the
//              others out
inline const std::vector<std::string> preset_names{"paper", "protocol", "achilles", "quick"};

namespace detail {

// The reading of "paper", but for what a task has of its own.
template <class Experiment>
void read_as_paper(Options<Experiment>& o) {
  o.variant.mixer = "mamba2", o.variant.head = "untied", o.variant.vocab_size = named_vocab_size<Experiment>(201);
  o.gamma_except.convolution = true, o.gamma_zeroes_biases = false;
  o.products = mamba::Products::tf32;
  o.training.rate_changes = mamba::RateChanges::each_step;
  o.training.schedule.total = 210;
  o.training.clip = 1e9;
}

}  // namespace detail

inline void apply_preset(Options<Composite>& o, std::string_view name) {
  if (name == "paper") {
    detail::read_as_paper(o);
    o.task.labels = mamba::task::Labels::sum, o.task.train_samples = 15 * 16'875;
  }
  if (name == "achilles") o.task.filler = {0, 99};
  if (name != "quick") return;
  o.layers = 3;
  shorten(o, 128, 2e-3, 200, 6000, 250);
}
inline void apply_preset(Options<FullSymmetry>& o, std::string_view name) {
  o.gamma = 0.5;
  if (name == "paper") detail::read_as_paper(o), o.task.labels = mamba::task::Labels::sum;
  if (name == "achilles") o.task.filler = {0, 99};
  if (name == "quick") shorten(o, 128, 1e-3, 100, 1000, 50);
}
inline void apply_preset(Options<Inverse>& o, std::string_view name) {
  o.gamma = 0.5;
  o.training.batch_size = 1024;
  if (name == "paper") detail::read_as_paper(o);
  if (name != "quick") return;
  o.task.test_samples = o.task.out_of_distribution_samples = 1000;
  shorten(o, 64, 1e-3, 100, 1000, 50);
}
template <class Experiment>
Options<Experiment> preset(std::string_view name) {
  Options<Experiment> o;
  apply_preset(o, name);
  return o;
}

// A preset's word on the start of what this run does not draw, or does not draw by gamma, means nothing.
template <class Experiment>
void settle_gamma_except(Options<Experiment>& o) {
  if (!o.gamma) o.gamma_except = {};
  if (o.variant.conv != "learned" || o.variant.mixer == "mamba3") o.gamma_except.convolution = false;
}

// A run of `total` epochs or steps. Where it is counted otherwise than before, warm-up and evaluations keep their share
// of it; the warm-up is never more than a tenth.
template <class Experiment>
void set_length(Options<Experiment>& o, long total, bool in_steps) {
  mamba::Schedule& schedule = o.training.schedule;
  if (in_steps != o.training.schedule_in_steps) {
    schedule.warmup = total * schedule.warmup / schedule.total;
    o.eval_every = std::max(1L, total / 20);
  } else if (o.eval_every > total) {
    o.eval_every = std::max(1L, total / 20);
  }
  o.training.schedule_in_steps = in_steps;
  schedule.total = total;
  schedule.warmup = std::min(schedule.warmup, total / 10);
}

// How large a run may be: beyond it counts and sizes would overflow, or a record in a file could ask for all memory.
inline constexpr int most_layers = 1000, most_test_samples = 1'000'000;
inline constexpr long longest_run = 1'000'000'000;

// All that a run may be refused for. Throws Error. longest: how many tokens the variant reads at most; 0: any number.
template <class Experiment>
void check(const Options<Experiment>& o, int longest) {
  using mamba::require;
  require(o.layers <= most_layers, "a model has at most ", most_layers, " layers; n_layers is ", o.layers);
  require(o.training.schedule.total <= longest_run, "a run lasts at most ", longest_run, " epochs or steps; given ",
          o.training.schedule.total);
  typename Experiment::TaskOptions sizes = o.task;
  Experiment::for_each_field(sizes, [](const char* option, const char*, const auto& field) {
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(field)>, int>)
      require(field <= most_test_samples, key_of(option), " is at most ", most_test_samples, "; given ", field);
  });
  o.model().check();
  o.training.check();
  const auto task = Experiment::task(o.task, o.layers, o.seed);
  const int tokens = config_of<Experiment>(o.variant.vocab_size).vocab_size;
  require(task.vocab_size <= tokens, "the task has ", task.vocab_size, " tokens and labels, and the model knows ",
          tokens, "; vocab_size says how many");
  require(longest == 0 || task.length <= longest, "the task's sequences of ", task.length,
          " tokens are longer than the ", longest, " positions of \"", title_of(o.variant), "\"");
  require(o.eval_every >= 1, "an evaluation comes after at least one epoch or step; given ", o.eval_every);
  require(!o.position_std || o.variant.position == "learned", "position_std is of learned positions; the position is ",
          o.variant.position);
  const mamba::GammaExcept& except = o.gamma_except;
  require(!except.convolution || o.variant.conv == "learned",
          "gamma_except names the convolution, whose kernel is not drawn: it is ", o.variant.conv);
  require(!except.convolution_bias || o.variant.conv != "ones-frozen",
          "gamma_except names the convolution's bias, which is not drawn: the convolution is ", o.variant.conv);
  const bool third = o.variant.mixer == "mamba3";
  require(!(except.convolution || except.convolution_bias) || !third,
          "gamma_except names the convolution, which mamba3 has not");
  require(!except.key_bias || third, "gamma_except names the keys' biases, which mamba3 alone has; the mixer is ",
          o.variant.mixer);
  require(!except.position || o.variant.position == "learned",
          "gamma_except names positions, and there are none to draw; the position is ", o.variant.position);
  require(!except.head || o.variant.head == "untied",
          "gamma_except names the head, which has no weight of its own: it is ", o.variant.head);
  require(o.gamma_zeroes_biases || !(except.convolution_bias || except.step_bias || except.key_bias),
          "gamma_except names a bias, and with gamma_biases own all of them are left out");
  require(!(except.embedding && o.embedding_std) && !(except.position && o.position_std),
          "gamma_except leaves out what embedding_std or position_std draws anyway");
  require(
      o.gamma || (o.gamma_fan == mamba::Fan::out && o.gamma_zeroes_biases && o.gamma_except == mamba::GammaExcept{}),
      "gamma_fan, gamma_except and gamma_biases are gamma's");
}

// What metadata or a record call a variant, but for its vocabulary.
inline Variant variant_from(const Json& json) {
  Variant v;
  for_each_answer(v, [&](const char* option, const char*, const auto&, std::string& word) {
    // The head is younger than the others.
    const std::string key = key_of(option);
    word = (key == "head" && !json.find(key) ? unmentioned(key) : json.at(key)).string();
  });
  return v;
}

namespace detail {

// Whether a record says the first of two words.
inline bool is_first(const Json& json, std::string_view key, std::string_view first, std::string_view second) {
  const std::string& word = json.at(key).string();
  if (word != first && word != second)
    mamba::fail(mamba::ErrorKind::bad_file, key, " is ", first, " or ", second, "; given ", word);
  return word == first;
}

}  // namespace detail

// The options that a record holds, as they stand there: what is out of range is found by check(). Throws
// Error(bad_file) where the run was another task's. What came after the record was written is as it was before there
// was a choice.
template <class Experiment>
void take_over(Options<Experiment>& o, const Json& json) {
  if (const Json* task = json.find("task"); task && task->string() != Experiment::name)
    mamba::fail(mamba::ErrorKind::bad_file, "the run is of the task \"", task->string(), "\", not of \"",
                Experiment::name, "\"");
  o.variant = variant_from(json);
  const int tokens = json.at("vocab_size").integer<int>();
  mamba::require(tokens >= 1, "a vocabulary has a token at least; vocab_size is ", tokens);
  o.variant.vocab_size = named_vocab_size<Experiment>(tokens);
  o.layers = json.at("n_layers").integer<int>();
  o.gamma_fan =
      json.find("gamma_fan") && detail::is_first(json, "gamma_fan", "in", "out") ? mamba::Fan::in : mamba::Fan::out;
  std::vector<std::string> except;
  if (const Json* roles = json.find("gamma_except"))
    for (const Json& role : roles->elements()) except.push_back(role.string());
  o.gamma_except = except_of(except);
  o.gamma_zeroes_biases = !json.find("gamma_biases") || detail::is_first(json, "gamma_biases", "zero", "own");
  const auto number_or_null = [](const Json* value) {
    return value && !value->is_null() ? std::optional(value->number()) : std::nullopt;
  };
  o.gamma = number_or_null(&json.at("gamma"));
  o.embedding_std = number_or_null(json.find("embedding_std")),
  o.position_std = number_or_null(json.find("position_std"));
  o.training.schedule_in_steps = detail::is_first(json, "schedule_unit", "steps", "epochs");
  o.training.schedule.total = json.at("total").integer<long>();
  for_each_field(o, [&](const char* option, const char*, auto& field) {
    const std::string key = key_of(option);
    const Json before_the_choice = unmentioned(key);
    const Json* const found = json.find(key);
    support::set_from_json(field, found || before_the_choice.is_null() ? json.at(key) : before_the_choice);
  });
}

// The same of a record in a file, whose name stands in every Error(bad_file); what is out of range is one, too.
template <class Experiment>
void restore(Options<Experiment>& o, const Json& json, const std::filesystem::path& file) {
  support::from_file(file, [&] {
    take_over(o, json);
    check(o, 0);
  });
}

}  // namespace runs
