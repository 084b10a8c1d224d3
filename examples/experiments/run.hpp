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
#include <type_traits>
#include <vector>

#include <mamba/composite.hpp>

#include "history.hpp"
#include "model_file.hpp"
#include "options.hpp"
#include "support/agreement.hpp"
#include "support/exit_codes.hpp"
#include "support/folder.hpp"
#include "support/interrupt.hpp"
#include "support/progress.hpp"
#include "support/resuming.hpp"

namespace runs {

template <class Model>
inline constexpr bool on_cpu = std::is_same_v<typename Model::Architecture::Backend, mamba::Cpu>;
// "CPU" or "GPU 0".
template <class Model, class Experiment>
std::string place_of(const Options<Experiment>& o) {
  return on_cpu<Model> ? "CPU" : "GPU " + std::to_string(o.gpu);
}

// --evaluate: a saved model on the task's test sets.
template <class Experiment, class Model>
int evaluate_file(const Options<Experiment>& o, const mamba::io::SafetensorsFile& file) {
  check_layers<Model>(file, o.evaluate, o.layers);
  const auto task = Experiment::task(o.task, o.layers, o.seed);
  Model model(o.model());
  mamba::load(model, o.evaluate);
  const Json metrics = Experiment::final_metrics(model, task);
  if (o.json) std::cout << metrics.dump(2) << "\n";
  else Experiment::print(metrics);
  return support::done;
}

// A run that goes on: its trainer and history as the checkpoint has them. Throws Error(bad_file), that names the file.
template <class Experiment, class Trainer>
History<Experiment> continue_run(const mamba::io::SafetensorsFile& file, const std::filesystem::path& path,
                                 Trainer& trainer, RunPlace place) {
  return support::from_file(path, [&] {
    mamba::load_checkpoint(trainer, file);
    place.steps = trainer.steps();
    return History<Experiment>::from(notes_of(file, path).at("history"), place);
  });
}

// Trains, or continues, to the end or to an interrupt, in a folder of its own; together with the other processes of the
// group, of which the first one writes and tells. program: its name, for advice.
//
// The checkpoint is what counts: it is written first, after an evaluation that found numbers, and all else follows from
// it. A run that continues writes again what a kill may have kept from being written.
template <class Experiment, class Model>
int train_model(const Options<Experiment>& o, const support::OwnFolder& folder, mamba::Group& group,
                const char* program) {
  using Task = decltype(Experiment::task(o.task, o.layers, o.seed));
  constexpr double checkpoint_seconds = 60;
  const bool quiet = o.quiet || !group.is_first();
  const std::string best_name = std::string("model_best_") + Experiment::tracked_name;
  const auto checkpoint = folder / "checkpoint.safetensors";
  const auto task = Experiment::task(o.task, o.layers, o.seed);
  mamba::TrainingOptions training = o.training;
  training.seed = o.seed;
  std::optional<Model> own_model;
  std::optional<mamba::Trainer<Model, Task>> own_trainer;
  std::optional<typename Experiment::template Evaluation<Model>> evaluation;
  History<Experiment> history;
  long every = 0;
  const auto place = [&] {
    const auto& trainer = *own_trainer;
    return RunPlace{trainer.steps(), trainer.total_steps(), trainer.steps_per_epoch(), every};
  };
  mamba::together(group, [&] {
    std::optional<mamba::io::SafetensorsFile> stopped;
    if (o.resume)
      check_layers<Model>(stopped.emplace(mamba::io::SafetensorsFile::read(checkpoint)), checkpoint, o.layers);
    own_model.emplace(o.model());
    own_trainer.emplace(*own_model, task, training, group);
    evaluation.emplace(task);
    every = std::min(o.eval_every, o.training.schedule.total) *
            (o.training.schedule_in_steps ? 1 : own_trainer->steps_per_epoch());
    if (stopped) history = continue_run<Experiment>(*stopped, checkpoint, *own_trainer, place());
  });
  Model& model = *own_model;
  mamba::Trainer<Model, Task>& trainer = *own_trainer;
  const auto write_checkpoint = [&] {
    mamba::save_checkpoint(trainer, checkpoint, Json::Members{{"options", recorded(o)}, {"history", history.json()}});
  };
  const auto write_best = [&] { mamba::save(model, folder / (best_name + ".safetensors")); };
  const auto write_log = [&] {
    mamba::io::write_file(folder / "training_log.csv", history.csv());
    mamba::io::write_file(folder / "curves.svg", history.svg(o));
  };
  mamba::in_first(group, [&] {
    if (o.resume) {
      if (history.best_epoch == trainer.epochs()) write_best();
      if (!history.rows.empty()) write_log();
    } else {
      mamba::io::write_file(folder / "config.json", recorded(o).dump(2) + "\n");
    }
  });
  if (!quiet) {
    const std::string processes = group.size() > 1 ? " by " + std::to_string(group.size()) + " processes" : "";
    std::fprintf(stderr, "%s on the %s%s, %ld steps of %d sequences, into %s\n", o.resume ? "Continuing" : "Training",
                 place_of<Model>(o).c_str(), processes.c_str(), trainer.total_steps(), o.training.batch_size,
                 folder.string().c_str());
  }

  support::catch_interrupts();
  const double start = support::seconds_now();
  const auto sequences_before = static_cast<double>(trainer.sequences());
  double last_checkpoint = start, recent_loss = NAN;
  std::string accuracies;
  {
    support::Progress progress(static_cast<double>(trainer.total_steps()), static_cast<double>(trainer.steps()));
    long at_once = 1;  // steps between two looks at the clock
    while (!trainer.finished()) {
      const long to_evaluation = std::min(every - trainer.steps() % every, trainer.total_steps() - trainer.steps());
      const long piece = std::min(at_once, to_evaluation);
      const double before = support::seconds_now();
      trainer.run(piece);
      const double loss = trainer.last_loss(), lr = trainer.last_lr();
      recent_loss = std::isnan(recent_loss) ? loss : 0.95 * recent_loss + 0.05 * loss;
      if (place().evaluated_now()) {
        Accuracies<Experiment::columns.size()> measured{};
        mamba::together(group, [&] { measured = (*evaluation)(model); });
        const bool best = history.add({trainer.epochs(), trainer.take_mean_loss(), measured, lr});
        write_checkpoint();
        last_checkpoint = support::seconds_now();
        mamba::in_first(group, [&] {
          if (best) write_best();
          write_log();
        });
        accuracies = " ";
        for (std::size_t c = 0; c < measured.size(); ++c)
          accuracies += std::string(" ") + Experiment::brief[c] + " " + mamba::fixed_text(measured[c], 3);
      }
      const double now = support::seconds_now();
      const auto said = support::agree(group, {.interrupted = support::interrupted(),
                                               .checkpoint_is_due = now - last_checkpoint > checkpoint_seconds,
                                               .looks_too_often = piece == at_once && now - before < 0.1});
      if (said.looks_too_often) at_once *= 2;
      if (said.interrupted && !trainer.finished()) {
        write_checkpoint();
        progress.finish();
        if (!quiet)
          support::advise_to_continue(program, folder.string(), trainer.steps(), trainer.total_steps(),
                                      on_cpu<Model> ? -1 : o.gpu);
        return support::interrupted_run;
      }
      if (said.checkpoint_is_due) write_checkpoint(), last_checkpoint = now;
      if (quiet) continue;
      const double rate = (static_cast<double>(trainer.sequences()) - sequences_before) / (now - start);
      progress.show(static_cast<double>(trainer.steps()), "step " + std::to_string(trainer.steps()) + "/" +
                                                              std::to_string(trainer.total_steps()) + "  epoch " +
                                                              mamba::fixed_text(trainer.epochs(), 2) + "  loss " +
                                                              mamba::fixed_text(recent_loss, 4) + accuracies + "  " +
                                                              mamba::fixed_text(rate, 0) + " sequences/s");
    }
  }

  Json::Members metrics;
  mamba::together(group, [&] { metrics = Experiment::final_metrics(model, task); });
  metrics.emplace_back(std::string("best_") + Experiment::columns[Experiment::tracked], history.best);
  metrics.emplace_back(std::string("best_") + Experiment::tracked_name + "_epoch", history.best_epoch);
  metrics.emplace_back("train_loss", history.rows.back().train_loss);  // there is one: a run ends with an evaluation
  metrics.emplace_back("steps", static_cast<std::int64_t>(trainer.steps()));
  metrics.emplace_back("epochs", trainer.epochs());
  mamba::in_first(group, [&] {
    mamba::save(model, folder / "model_final.safetensors");
    mamba::io::write_file(folder / "metrics.json", Json(metrics).dump(2) + "\n");
  });
  if (quiet) return support::done;
  const double seconds = support::seconds_now() - start;
  if (o.json) {
    metrics.emplace_back("seconds", seconds);
    metrics.emplace_back("out", folder.string());
    std::cout << Json(metrics).dump(2) << "\n";
    return support::done;
  }
  const Json all(metrics);
  Experiment::print(all);
  const char* const tracked = Experiment::columns[Experiment::tracked];
  std::printf("best %s along the way: %s at epoch %s; final: %s\n", tracked, mamba::fixed_text(history.best, 3).c_str(),
              mamba::general_text(history.best_epoch, 4).c_str(),
              mamba::fixed_text(all.at(tracked).number(), 3).c_str());
  std::printf(
      "\n%ld steps in %s. In %s: curves.svg, training_log.csv, metrics.json, config.json,\nmodel_final, %s and "
      "checkpoint (.safetensors).\n",
      trainer.steps(), support::duration_text(seconds).c_str(), folder.string().c_str(), best_name.c_str());
  return support::done;
}

// A variant that a program was built with.
template <class Experiment>
struct Built {
  Variant variant;
  int (*train)(const Options<Experiment>&, const support::OwnFolder&, mamba::Group&, const char* program);
  int (*evaluate)(const Options<Experiment>&, const mamba::io::SafetensorsFile&);
  int longest;  // how many tokens it reads at most; 0: any number

  template <class Model>
  static Built of() {
    return {built_variant<Experiment, Model>(), train_model<Experiment, Model>, evaluate_file<Experiment, Model>,
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
  mamba::fail(mamba::ErrorKind::invalid_argument, "this program was not built with \"", title_of(wanted), "\"; it has",
              names);
}

}  // namespace runs
