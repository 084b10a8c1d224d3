// A run of the composite function task: train, evaluate, write down, stop and go on.
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
#include <vector>

#include <mamba/composite.hpp>
#include <mamba/io/figure.hpp>

#include "support/exit_codes.hpp"
#include "support/interrupt.hpp"
#include "support/progress.hpp"

namespace composite_run {

using mamba::io::Json;
using Task = mamba::task::CompositeFunction;

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

struct Options {
  Variant variant;
  int layers = 2;
  std::optional<double> gamma = 1.0;
  std::uint64_t seed = 0;
  mamba::TrainingOptions training{};
  mamba::task::CompositeFunctionOptions task{};
  long eval_every = 10;  // in the schedule's unit
  int threads = 0;
  int gpu = 0;  // the index of the one to use, where the variant runs on one
  std::filesystem::path out;
  bool resume = false;
  std::filesystem::path evaluate;
  bool json = false, quiet = false;  // quiet: one of many runs, whose program speaks for them

  const char* unit() const { return training.schedule_in_steps ? "steps" : "epochs"; }
};

// Where options start from: those given beside a preset win. "paper": the paper's protocol; "quick" shows the effect in minutes.
inline Options preset(std::string_view name) {
  Options o;
  if (name == "quick") {
    o.layers = 3;
    o.training.batch_size = 128;
    o.training.schedule_in_steps = true;
    o.training.schedule = {.initial_lr = 1e-5, .lr = 2e-3, .final_lr = 1e-5, .warmup = 200, .total = 6000};
    o.eval_every = 250;
  }
  return o;
}

// "CPU" or "GPU 0".
template <class Model>
std::string place_of(const Options& o) {
  return std::is_same_v<typename Model::Architecture::Backend, mamba::Cpu> ? "CPU" : "GPU " + std::to_string(o.gpu);
}

// "mamba1" and what differs from the standard block.
inline std::string title_of(const Variant& v) {
  std::string title = v.mixer;
  if (v.conv != "learned") title += ", " + v.conv + " convolution";
  if (v.position != "none") title += ", " + v.position + " position";
  if (v.residual != "none") title += ", " + v.residual + " residual";
  return title;
}

// What decides a run's result, as config.json and checkpoints record it.
inline Json recorded(const Options& o) {
  const auto range = [](mamba::task::TokenRange r) { return Json(Json::Elements{r.first, r.last}); };
  Json::Members members = mamba::config_members(mamba::Config{}, o.layers, o.gamma).members();
  const mamba::Schedule& s = o.training.schedule;
  const Json::Members training{{"mixer", o.variant.mixer},
                               {"conv", o.variant.conv},
                               {"position", o.variant.position},
                               {"residual", o.variant.residual},
                               {"seed", o.seed},
                               {"schedule_unit", o.unit()},
                               {"total", static_cast<std::int64_t>(s.total)},
                               {"warmup", static_cast<std::int64_t>(s.warmup)},
                               {"initial_lr", s.initial_lr},
                               {"lr", s.lr},
                               {"final_lr", s.final_lr},
                               {"batch_size", o.training.batch_size},
                               {"weight_decay", o.training.weight_decay},
                               {"clip", o.training.clip},
                               {"train_samples", o.task.train_samples},
                               {"eval_samples", o.task.eval_samples},
                               {"eval_every", static_cast<std::int64_t>(o.eval_every)},
                               {"filler", range(o.task.filler)},
                               {"keys", range(o.task.keys)}};
  members.insert(members.end(), training.begin(), training.end());
  return members;
}

// The reverse: the options of a stopped run.
inline void restore(Options& o, const Json& json) {
  const auto range = [](const Json& r) { return mamba::task::TokenRange{r.elements().at(0).integer<int>(), r.elements().at(1).integer<int>()}; };
  mamba::Schedule& s = o.training.schedule;
  o.variant = {json.at("mixer").string(), json.at("conv").string(), json.at("position").string(), json.at("residual").string()};
  o.layers = json.at("n_layers").integer<int>();
  o.gamma = json.at("gamma").is_null() ? std::nullopt : std::optional(json.at("gamma").number());
  o.seed = json.at("seed").integer<std::uint64_t>();
  o.training.schedule_in_steps = json.at("schedule_unit").string() == "steps";
  s.total = json.at("total").integer<long>(), s.warmup = json.at("warmup").integer<long>();
  s.initial_lr = json.at("initial_lr").number(), s.lr = json.at("lr").number(), s.final_lr = json.at("final_lr").number();
  o.training.batch_size = json.at("batch_size").integer<int>();
  o.training.weight_decay = json.at("weight_decay").number(), o.training.clip = json.at("clip").number();
  o.task.train_samples = json.at("train_samples").integer<std::int64_t>(), o.task.eval_samples = json.at("eval_samples").integer<int>();
  o.eval_every = json.at("eval_every").integer<long>();
  o.task.filler = range(json.at("filler")), o.task.keys = range(json.at("keys"));
}

// One row of training_log.csv.
struct LogRow {
  double epoch, train_loss, composite, symmetric, lr;
};

struct History {
  std::vector<LogRow> rows;
  double best_composite = -1, best_epoch = 0;

  Json json() const {
    Json::Elements lines;
    for (const LogRow& r : rows) lines.push_back(Json::Elements{r.epoch, r.train_loss, r.composite, r.symmetric, r.lr});
    return Json::Members{{"best_composite", best_composite}, {"best_epoch", best_epoch}, {"log", std::move(lines)}};
  }
  static History from(const Json& json) {
    History h{{}, json.at("best_composite").number(), json.at("best_epoch").number()};
    for (const Json& line : json.at("log").elements()) {
      const auto& v = line.elements();
      h.rows.push_back({v.at(0).number(), v.at(1).number(), v.at(2).number(), v.at(3).number(), v.at(4).number()});
    }
    return h;
  }
  std::string csv() const {
    std::string text = "epoch,train_loss,composite_acc,symmetric_acc,lr\n";
    for (const LogRow& r : rows) {
      for (const double x : {r.epoch, r.train_loss, r.composite, r.symmetric}) text += Json(x).dump() + ",";
      text += Json(r.lr).dump() + "\n";
    }
    return text;
  }
  std::string svg(const Options& o) const {
    mamba::io::Series loss{"training loss", {}}, composite{"composite (key - 10)", {}}, symmetric{"symmetric (key - 6)", {}};
    for (const LogRow& r : rows) {
      loss.points.emplace_back(r.epoch, r.train_loss);
      composite.points.emplace_back(r.epoch, r.composite);
      symmetric.points.emplace_back(r.epoch, r.symmetric);
    }
    const std::string gamma = o.gamma ? "gamma " + Json(*o.gamma).dump() : "default initialisation";
    return mamba::io::LineChart{
        "Composite function task: " + title_of(o.variant) + ", " + std::to_string(o.layers) + " layers, " + gamma + ", seed " + std::to_string(o.seed),
        "epoch",
        {{"cross-entropy", {loss}}, {"accuracy on (4,3)", {composite, symmetric}, 0, 1}}}
        .svg();
  }
};

// The accuracies on all 16 pairs.
template <class Model>
std::vector<mamba::PairAccuracy> evaluate_all(Model& model, const Task& task) {
  std::vector<mamba::PairAccuracy> all;
  for (int p = 0; p < Task::pair_count; ++p) all.push_back(mamba::evaluate(model, task.test_set(p)));
  return all;
}

inline const char* preferred(const mamba::PairAccuracy& held_out) {
  if (std::max(held_out.composite, held_out.symmetric) < 0.1) return "neither";
  return held_out.composite >= held_out.symmetric ? "composite" : "symmetric";
}

inline Json::Members pairs_json(const std::vector<mamba::PairAccuracy>& all) {
  const auto& held_out = all[Task::number_of(Task::held_out)];
  Json::Members pairs;
  for (int p = 0; p < Task::pair_count; ++p)
    pairs.emplace_back(std::to_string(Task::pair(p).first) + std::to_string(Task::pair(p).second), all[static_cast<std::size_t>(p)].label);
  return {{"composite_acc", held_out.composite}, {"symmetric_acc", held_out.symmetric}, {"prefers", preferred(held_out)}, {"pair_acc", std::move(pairs)}};
}

inline void print_pairs(const std::vector<mamba::PairAccuracy>& all) {
  std::printf("Accuracy on the test cases of each pair (first anchor down, second across):\n\n         1      2      3      4\n");
  for (int first = 1; first <= 4; ++first) {
    std::printf("  %d ", first);
    for (int second = 1; second <= 4; ++second) std::printf("  %.3f", all[static_cast<std::size_t>(Task::number_of({first, second}))].label);
    std::printf("\n");
  }
  const auto& held_out = all[Task::number_of(Task::held_out)];
  std::printf("\n(4,3), which training never shows: composite (key - 10) %.3f, symmetric (key - 6) %.3f\n", held_out.composite, held_out.symmetric);
}

inline void print_preference(const mamba::PairAccuracy& held_out) {
  const std::string_view name = preferred(held_out);
  if (name == "neither") std::printf("The model prefers neither solution: both accuracies are below 0.1.\n");
  else std::printf("The model prefers the %s solution.\n", preferred(held_out));
}

// --evaluate: a saved model on the 16 test sets.
template <class Model>
int evaluate_file(const Options& o) {
  const Task task(o.task);
  Model model({.n_layers = o.layers, .gamma = o.gamma, .seed = o.seed, .threads = o.threads, .device = o.gpu});
  mamba::load(model, o.evaluate);
  const auto all = evaluate_all(model, task);
  if (o.json) {
    std::cout << Json(pairs_json(all)).dump(2) << "\n";
  } else {
    print_pairs(all);
    print_preference(all[Task::number_of(Task::held_out)]);
  }
  return support::done;
}

// Trains, or continues, to the end or to an interrupt.
template <class Model>
int train_model(const Options& o) {
  constexpr double checkpoint_seconds = 60;
  const Task task(o.task);
  Model model({.n_layers = o.layers, .gamma = o.gamma, .seed = o.seed, .threads = o.threads, .device = o.gpu});
  mamba::Trainer trainer(model, task, o.training);
  const auto held_out = task.test_set(Task::number_of(Task::held_out));
  const auto checkpoint = o.out / "checkpoint.safetensors";
  History history;
  if (o.resume) {
    const auto file = mamba::io::SafetensorsFile::read(checkpoint);
    mamba::load_checkpoint(trainer, file);
    history = History::from(mamba::read_checkpoint_notes(file).at("history"));
  } else {
    std::error_code error;
    std::filesystem::create_directories(o.out, error);
    if (error) mamba::fail(mamba::ErrorKind::cannot_write, "cannot create ", o.out.string(), ": ", error.message());
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
    const long every = o.eval_every * (o.training.schedule_in_steps ? 1 : trainer.steps_per_epoch());
    long at_once = 1;  // steps between two looks at the clock
    while (!trainer.finished()) {
      const long to_evaluation = std::min(every - trainer.steps() % every, trainer.total_steps() - trainer.steps());
      const double before = support::seconds_now();
      trainer.run(std::min(at_once, to_evaluation));
      if (support::seconds_now() - before < 0.1) at_once *= 2;
      const double loss = trainer.last_loss(), lr = trainer.last_lr();
      recent_loss = std::isnan(recent_loss) ? loss : 0.95 * recent_loss + 0.05 * loss;
      if (trainer.steps() % every == 0 || trainer.finished()) {
        const auto accuracy = mamba::evaluate(model, held_out);
        history.rows.push_back({trainer.epochs(), trainer.take_mean_loss(), accuracy.composite, accuracy.symmetric, lr});
        if (accuracy.composite > history.best_composite) {
          history.best_composite = accuracy.composite, history.best_epoch = trainer.epochs();
          mamba::save(model, o.out / "model_best_composite.safetensors");
        }
        mamba::io::write_file(o.out / "training_log.csv", history.csv());
        mamba::io::write_file(o.out / "curves.svg", history.svg(o));
        write_checkpoint();
        last_checkpoint = support::seconds_now();
        char text[64];
        std::snprintf(text, sizeof text, "  (4,3) comp %.3f sym %.3f", accuracy.composite, accuracy.symmetric);
        accuracies = text;
      }
      const double now = support::seconds_now();
      if (support::interrupted() && !trainer.finished()) {
        write_checkpoint();
        progress.finish();
        if (o.quiet) return support::interrupted_run;
        std::fprintf(stderr, "Interrupted after step %ld of %ld. Continue with: train_composite --out %s --resume\n", trainer.steps(), trainer.total_steps(),
                     o.out.c_str());
        return support::interrupted_run;
      }
      if (now - last_checkpoint > checkpoint_seconds) write_checkpoint(), last_checkpoint = now;
      char text[160];
      std::snprintf(text, sizeof text, "step %ld/%ld  epoch %.2f  loss %.4f%s  %.0f sequences/s", trainer.steps(), trainer.total_steps(), trainer.epochs(),
                    recent_loss, accuracies.c_str(), (static_cast<double>(trainer.sequences()) - sequences_before) / (now - start));
      if (!o.quiet) progress.show(static_cast<double>(trainer.steps()), text);
    }
  }

  mamba::save(model, o.out / "model_final.safetensors");
  const auto all = evaluate_all(model, task);
  Json::Members metrics = pairs_json(all);
  metrics.emplace_back("best_composite_acc", history.best_composite);
  metrics.emplace_back("best_composite_epoch", history.best_epoch);
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
  print_pairs(all);
  std::printf("best composite accuracy on (4,3) along the way: %.3f at epoch %.4g; final: %.3f\n", history.best_composite, history.best_epoch,
              all[Task::number_of(Task::held_out)].composite);
  print_preference(all[Task::number_of(Task::held_out)]);
  std::printf(
      "\n%ld steps in %s. In %s: curves.svg, training_log.csv, metrics.json, config.json,\nmodel_final, model_best_composite and checkpoint (.safetensors).\n",
      trainer.steps(), support::duration_text(seconds).c_str(), o.out.c_str());
  return support::done;
}

// A variant that this program was built with.
struct Built {
  Variant variant;
  int (*train)(const Options&);
  int (*evaluate)(const Options&);
};
template <class Model>
Built built() {
  return {built_variant<Model>(), train_model<Model>, evaluate_file<Model>};
}

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
  const Json names = Json::parse(found->second);
  return Variant{names.at("mixer").string(), names.at("conv").string(), names.at("position").string(), names.at("residual").string()};
}

}  // namespace composite_run
