// A training run of any task: train, evaluate, write down, stop and go on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mamba/composite.hpp>
#include <mamba/io/figure.hpp>

#include "experiments.hpp"
#include "support/exit_codes.hpp"
#include "support/folder.hpp"
#include "support/interrupt.hpp"
#include "support/progress.hpp"
#include "support/text_file.hpp"

namespace runs {

// Which of the model's variants, by the policies' names.
struct Variant {
  std::string mixer = "mamba1", conv = "learned", position = "none", residual = "none";
  bool operator==(const Variant&) const = default;
};

template <class Model>
Variant built_variant() {
  using A = typename Model::Architecture;
  return {A::Mixer::name, A::ConvKernel::name, A::Position::name, A::ConvResidual::name};
}

// "mamba1" and what differs from the standard block.
inline std::string title_of(const Variant& v) {
  std::string title = v.mixer;
  if (v.conv != "learned") title += ", " + v.conv + " convolution";
  if (v.position != "none") title += ", " + v.position + " position";
  if (v.residual != "none") title += ", " + v.residual + " residual";
  return title;
}

// Experiment: one of experiments.hpp.
template <class Experiment>
struct Options {
  Variant variant;
  int layers = 2;
  std::optional<double> gamma = 1.0;
  mamba::Fan gamma_fan = mamba::Fan::out;
  bool gamma_zeroes_biases = true;
  std::optional<double> embedding_std{}, position_std{};
  std::uint64_t seed = 0;  // of initial weights, data and order
  mamba::TrainingOptions training{};
  typename Experiment::TaskOptions task{};
  long eval_every = 10;  // in the schedule's unit
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
            .gamma_zeroes_biases = gamma_zeroes_biases,
            .embedding_std = embedding_std,
            .position_std = position_std,
            .seed = seed,
            .threads = threads,
            .device = gpu};
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
  f("--warmup", "epochs or steps of warm-up, as the run is counted; unless given, at most a tenth of the run", schedule.warmup);
  f("--weight-decay", "AdamW's, on every parameter", o.training.weight_decay);
  f("--clip", "largest gradient norm", o.training.clip);
  f("--eval-every", "epochs or steps between evaluations", o.eval_every);
  Experiment::for_each_field(o.task, f);
}

// "--eval-every" -> "eval_every", as config.json names it.
inline std::string key_of(std::string_view option) {
  std::string key(option.substr(2));
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

namespace detail {

template <class T>
Json json_of(const T& field) {
  if constexpr (std::is_same_v<T, mamba::task::TokenRange>) return Json::Elements{field.first, field.last};
  else if constexpr (std::is_same_v<T, std::optional<double>>) return field ? Json(*field) : Json();
  else if constexpr (std::is_same_v<T, long>) return static_cast<std::int64_t>(field);
  else return field;
}

template <class T>
void set_from_json(T& field, const Json& json) {
  if constexpr (std::is_same_v<T, mamba::task::TokenRange>) {
    const Json::Elements& ends = json.elements();
    if (ends.size() != 2) mamba::fail(mamba::ErrorKind::bad_file, "a range of tokens has two ends; given ", json.dump());
    field = {ends[0].integer<int>(), ends[1].integer<int>()};
  } else if constexpr (std::is_floating_point_v<T>) field = json.number();
  else field = json.integer<T>();
}

}  // namespace detail

inline const char* name_of(mamba::Fan fan) { return fan == mamba::Fan::in ? "in" : "out"; }

// What decides a run's result, as config.json and checkpoints record it.
template <class Experiment>
Json recorded(Options<Experiment> o) {
  Json::Members members{{"task", Experiment::name}};
  const Json model = mamba::config_members(Experiment::config, o.layers, o.gamma);
  members.insert(members.end(), model.members().begin(), model.members().end());
  const Json::Members training{{"gamma_fan", name_of(o.gamma_fan)},
                               {"gamma_biases", o.gamma_zeroes_biases ? "zero" : "own"},
                               {"embedding_std", detail::json_of(o.embedding_std)},
                               {"position_std", detail::json_of(o.position_std)},
                               {"mixer", o.variant.mixer},
                               {"conv", o.variant.conv},
                               {"position", o.variant.position},
                               {"residual", o.variant.residual},
                               {"schedule_unit", o.unit()},
                               {"total", detail::json_of(o.training.schedule.total)}};
  members.insert(members.end(), training.begin(), training.end());
  for_each_field(o, [&](const char* option, const char*, auto& field) { members.emplace_back(key_of(option), detail::json_of(field)); });
  return members;
}

// The record of the run that a file came from: a checkpoint's notes, or the config.json beside it where it is these programs'.
inline std::optional<Json> record_of(const mamba::io::SafetensorsFile& file, const std::filesystem::path& path) {
  if (file.metadata().count("notes") > 0) return mamba::read_checkpoint_notes(file).at("options");
  const auto record = path.parent_path() / "config.json";
  if (!std::filesystem::exists(record)) return std::nullopt;
  const Json json = support::read_json(record);
  return json.find("schedule_unit") ? std::optional(json) : std::nullopt;
}

// What metadata or a record call a variant.
inline Variant variant_from(const Json& json) {
  return {json.at("mixer").string(), json.at("conv").string(), json.at("position").string(), json.at("residual").string()};
}

// The reverse: the options of a run. Throws Error(bad_file) where it was another task's. What came after the record was written is as it was
// before there was a choice.
template <class Experiment>
void restore(Options<Experiment>& o, const Json& json) {
  if (const Json* task = json.find("task"); task && task->string() != Experiment::name)
    mamba::fail(mamba::ErrorKind::bad_file, "the run is of the task \"", task->string(), "\", not of \"", Experiment::name, "\"");
  o.variant = variant_from(json);
  o.layers = json.at("n_layers").integer<int>();
  const Json *const fan = json.find("gamma_fan"), *const biases = json.find("gamma_biases");
  o.gamma_fan = fan && fan->string() == "in" ? mamba::Fan::in : mamba::Fan::out;
  o.gamma_zeroes_biases = !biases || biases->string() == "zero";
  const auto number_or_null = [](const Json* value) { return value && !value->is_null() ? std::optional(value->number()) : std::nullopt; };
  o.gamma = number_or_null(&json.at("gamma"));
  o.embedding_std = number_or_null(json.find("embedding_std")), o.position_std = number_or_null(json.find("position_std"));
  o.training.schedule_in_steps = json.at("schedule_unit").string() == "steps";
  o.training.schedule.total = json.at("total").integer<long>();
  for_each_field(o, [&](const char* option, const char*, auto& field) { detail::set_from_json(field, json.at(key_of(option))); });
}

// A short run for a CPU, counted in steps.
template <class Experiment>
void shorten(Options<Experiment>& o, int batch_size, double lr, long warmup, long total, long eval_every) {
  o.training.batch_size = batch_size, o.eval_every = eval_every;
  o.training.schedule_in_steps = true;
  o.training.schedule = {.initial_lr = 1e-5, .lr = lr, .final_lr = 1e-5, .warmup = warmup, .total = total};
}

// Where options start from: those given beside a preset win. "paper": the paper's protocol; "quick": a short version, which shows the effect
// on the composite function task and tries the others out.
inline void apply_preset(Options<Composite>& o, std::string_view name) {
  if (name != "quick") return;
  o.layers = 3;
  shorten(o, 128, 2e-3, 200, 6000, 250);
}
inline void apply_preset(Options<FullSymmetry>& o, std::string_view name) {
  o.gamma = 0.5;
  if (name == "quick") shorten(o, 128, 1e-3, 100, 1000, 50);
}
inline void apply_preset(Options<Inverse>& o, std::string_view name) {
  o.gamma = 0.5;
  o.training.batch_size = 1024;
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

// A run of `total` epochs or steps. Where it is counted otherwise than before, warm-up and evaluations keep their share of it; the warm-up is
// never more than a tenth.
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

// All that a run may be refused for. Throws Error. longest: how many tokens the variant reads at most; 0: any number.
template <class Experiment>
void check(const Options<Experiment>& o, int longest) {
  using mamba::require;
  o.model().check();
  o.training.check();
  const auto task = Experiment::task(o.task, o.layers, o.seed);
  require(longest == 0 || task.length <= longest, "the task's sequences of ", task.length, " tokens are longer than the ", longest, " positions of \"",
          title_of(o.variant), "\"");
  require(o.eval_every >= 1, "an evaluation comes after at least one epoch or step; given ", o.eval_every);
  require(!o.position_std || o.variant.position == "learned", "position_std is of learned positions; the position is ", o.variant.position);
  require(o.gamma || (o.gamma_fan == mamba::Fan::out && o.gamma_zeroes_biases), "gamma_fan and gamma_biases are gamma's");
}

template <class Model>
inline constexpr bool on_cpu = std::is_same_v<typename Model::Architecture::Backend, mamba::Cpu>;
// "CPU" or "GPU 0".
template <class Model, class Experiment>
std::string place_of(const Options<Experiment>& o) {
  return on_cpu<Model> ? "CPU" : "GPU " + std::to_string(o.gpu);
}

// What training_log.csv holds, and the best of the tracked accuracy.
template <class Experiment>
struct History {
  static constexpr std::size_t columns = Experiment::columns.size();
  struct Row {
    double epoch, train_loss;
    Accuracies<columns> accuracies;
    double lr;
  };

  std::vector<Row> rows;
  double best = -1, best_epoch = 0;

  Json json() const {
    Json::Elements lines;
    for (const Row& r : rows) {
      Json::Elements line{r.epoch, r.train_loss};
      for (const double a : r.accuracies) line.emplace_back(a);
      line.emplace_back(r.lr);
      lines.emplace_back(std::move(line));
    }
    return Json::Members{{"best", best}, {"best_epoch", best_epoch}, {"log", std::move(lines)}};
  }
  static History from(const Json& json) {
    History h{{}, json.at("best").number(), json.at("best_epoch").number()};
    for (const Json& line : json.at("log").elements()) {
      const auto& v = line.elements();
      if (v.size() != 3 + columns) mamba::fail(mamba::ErrorKind::bad_file, "a line of the log has ", 3 + columns, " numbers; given ", line.dump());
      Row row{v[0].number(), v[1].number(), {}, v[2 + columns].number()};
      for (std::size_t c = 0; c < columns; ++c) row.accuracies[c] = v[2 + c].number();
      h.rows.push_back(row);
    }
    return h;
  }
  std::string csv() const {
    std::string text = "epoch,train_loss,";
    for (const char* column : Experiment::columns) text += std::string(column) + ",";
    text += "lr\n";
    for (const Row& r : rows) {
      std::vector<double> line{r.epoch, r.train_loss};
      line.insert(line.end(), r.accuracies.begin(), r.accuracies.end());
      line.push_back(r.lr);
      text += support::row_text(line) + "\n";
    }
    return text;
  }
  std::string svg(const Options<Experiment>& o) const {
    mamba::io::Series loss{"training loss", {}};
    std::vector<mamba::io::Series> accuracies;
    for (const char* line : Experiment::lines) accuracies.push_back({line, {}});
    for (const Row& r : rows) {
      loss.points.emplace_back(r.epoch, r.train_loss);
      for (std::size_t c = 0; c < columns; ++c) accuracies[c].points.emplace_back(r.epoch, r.accuracies[c]);
    }
    const std::string gamma = o.gamma ? "gamma " + Json(*o.gamma).dump() : "default initialisation";
    return mamba::io::LineChart{std::string(Experiment::title) + ": " + title_of(o.variant) + ", " + std::to_string(o.layers) + " layers, " + gamma +
                                    ", seed " + std::to_string(o.seed),
                                "epoch",
                                {{"cross-entropy", {loss}}, {Experiment::accuracy, std::move(accuracies), 0, 1}}}
        .svg();
  }
};

// --evaluate: a saved model on the task's test sets.
template <class Experiment, class Model>
int evaluate_file(const Options<Experiment>& o) {
  const auto task = Experiment::task(o.task, o.layers, o.seed);
  Model model(o.model());
  mamba::load(model, o.evaluate);
  const Json metrics = Experiment::final_metrics(model, task);
  if (o.json) std::cout << metrics.dump(2) << "\n";
  else Experiment::print(metrics);
  return support::done;
}

// Trains, or continues, to the end or to an interrupt. program: its name, for advice.
template <class Experiment, class Model>
int train_model(const Options<Experiment>& o, const char* program) {
  constexpr double checkpoint_seconds = 60;
  const std::string best_name = std::string("model_best_") + Experiment::tracked_name;
  const auto task = Experiment::task(o.task, o.layers, o.seed);
  Model model(o.model());
  mamba::TrainingOptions training = o.training;
  training.seed = o.seed;
  mamba::Trainer trainer(model, task, training);
  const typename Experiment::template Evaluation<Model> evaluation(task);
  const auto checkpoint = o.out / "checkpoint.safetensors";
  History<Experiment> history;
  if (o.resume) {
    const auto file = mamba::io::SafetensorsFile::read(checkpoint);
    mamba::load_checkpoint(trainer, file);
    history = History<Experiment>::from(mamba::read_checkpoint_notes(file).at("history"));
  } else {
    support::create_folder(o.out);
    mamba::io::write_file(o.out / "config.json", recorded(o).dump(2) + "\n");
  }
  const auto write_checkpoint = [&] { mamba::save_checkpoint(trainer, checkpoint, Json::Members{{"options", recorded(o)}, {"history", history.json()}}); };
  if (!o.quiet)
    std::fprintf(stderr, "%s on the %s, %ld steps of %d sequences, into %s\n", o.resume ? "Continuing" : "Training", place_of<Model>(o).c_str(),
                 trainer.total_steps(), o.training.batch_size, o.out.c_str());

  support::catch_interrupts();
  const double start = support::seconds_now();
  const auto sequences_before = static_cast<double>(trainer.sequences());
  double last_checkpoint = start, recent_loss = NAN;
  std::string accuracies;
  {
    support::Progress progress(static_cast<double>(trainer.total_steps()), static_cast<double>(trainer.steps()));
    const long every = std::min(o.eval_every, o.training.schedule.total) * (o.training.schedule_in_steps ? 1 : trainer.steps_per_epoch());
    long at_once = 1;  // steps between two looks at the clock
    while (!trainer.finished()) {
      const long to_evaluation = std::min(every - trainer.steps() % every, trainer.total_steps() - trainer.steps());
      const long piece = std::min(at_once, to_evaluation);
      const double before = support::seconds_now();
      trainer.run(piece);
      if (piece == at_once && support::seconds_now() - before < 0.1) at_once *= 2;
      const double loss = trainer.last_loss(), lr = trainer.last_lr();
      recent_loss = std::isnan(recent_loss) ? loss : 0.95 * recent_loss + 0.05 * loss;
      if (trainer.steps() % every == 0 || trainer.finished()) {
        const auto measured = evaluation(model);
        history.rows.push_back({trainer.epochs(), trainer.take_mean_loss(), measured, lr});
        if (measured[Experiment::tracked] > history.best) {
          history.best = measured[Experiment::tracked], history.best_epoch = trainer.epochs();
          mamba::save(model, o.out / (best_name + ".safetensors"));
        }
        mamba::io::write_file(o.out / "training_log.csv", history.csv());
        mamba::io::write_file(o.out / "curves.svg", history.svg(o));
        write_checkpoint();
        last_checkpoint = support::seconds_now();
        accuracies = " ";
        for (std::size_t c = 0; c < measured.size(); ++c) {
          char text[64];
          std::snprintf(text, sizeof text, " %s %.3f", Experiment::brief[c], measured[c]);
          accuracies += text;
        }
      }
      const double now = support::seconds_now();
      if (support::interrupted() && !trainer.finished()) {
        write_checkpoint();
        progress.finish();
        if (o.quiet) return support::interrupted_run;
        std::fprintf(stderr, "Interrupted after step %ld of %ld. Continue with: %s --out %s --resume --device %s\n", trainer.steps(), trainer.total_steps(),
                     program, o.out.c_str(), on_cpu<Model> ? "cpu" : ("cuda:" + std::to_string(o.gpu)).c_str());
        return support::interrupted_run;
      }
      if (now - last_checkpoint > checkpoint_seconds) write_checkpoint(), last_checkpoint = now;
      char text[200];
      std::snprintf(text, sizeof text, "step %ld/%ld  epoch %.2f  loss %.4f%s  %.0f sequences/s", trainer.steps(), trainer.total_steps(), trainer.epochs(),
                    recent_loss, accuracies.c_str(), (static_cast<double>(trainer.sequences()) - sequences_before) / (now - start));
      if (!o.quiet) progress.show(static_cast<double>(trainer.steps()), text);
    }
  }

  mamba::save(model, o.out / "model_final.safetensors");
  Json::Members metrics = Experiment::final_metrics(model, task);
  metrics.emplace_back(std::string("best_") + Experiment::columns[Experiment::tracked], history.best);
  metrics.emplace_back(std::string("best_") + Experiment::tracked_name + "_epoch", history.best_epoch);
  metrics.emplace_back("train_loss", history.rows.back().train_loss);
  metrics.emplace_back("steps", static_cast<std::int64_t>(trainer.steps()));
  metrics.emplace_back("epochs", trainer.epochs());
  mamba::io::write_file(o.out / "metrics.json", Json(metrics).dump(2) + "\n");
  if (o.quiet) return support::done;
  const double seconds = support::seconds_now() - start;
  if (o.json) {
    metrics.emplace_back("seconds", seconds);
    metrics.emplace_back("out", o.out.string());
    std::cout << Json(metrics).dump(2) << "\n";
    return support::done;
  }
  const Json all(metrics);
  Experiment::print(all);
  std::printf("best %s along the way: %.3f at epoch %.4g; final: %.3f\n", Experiment::columns[Experiment::tracked], history.best, history.best_epoch,
              all.at(Experiment::columns[Experiment::tracked]).number());
  std::printf("\n%ld steps in %s. In %s: curves.svg, training_log.csv, metrics.json, config.json,\nmodel_final, %s and checkpoint (.safetensors).\n",
              trainer.steps(), support::duration_text(seconds).c_str(), o.out.c_str(), best_name.c_str());
  return support::done;
}

// A variant that a program was built with.
template <class Experiment>
struct Built {
  Variant variant;
  int (*train)(const Options<Experiment>&, const char* program);
  int (*evaluate)(const Options<Experiment>&);
  int longest;  // how many tokens it reads at most; 0: any number

  template <class Model>
  static Built of() {
    return {built_variant<Model>(), train_model<Experiment, Model>, evaluate_file<Experiment, Model>,
            mamba::network::longest_sequence<typename Model::Architecture>()};
  }
};

// The variant among those built, or an error that lists them.
template <class List>
const auto& find_variant(const List& list, const Variant& wanted) {
  std::string names;
  for (const auto& entry : list) {
    if (entry.variant == wanted) return entry;
    names += "\n  " + title_of(entry.variant);
  }
  mamba::fail(mamba::ErrorKind::invalid_argument, "this program was not built with \"", title_of(wanted), "\"; it has", names);
}

// The variant that a file's metadata names, if they do.
inline std::optional<Variant> variant_of(const mamba::io::SafetensorsFile& file) {
  const auto found = file.metadata().find("variant");
  if (found == file.metadata().end()) return std::nullopt;
  return variant_from(Json::parse(found->second));
}

}  // namespace runs
