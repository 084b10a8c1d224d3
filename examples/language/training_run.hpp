// A training of a language model: train, evaluate, write down, stop and go on.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <numbers>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <mamba/generate.hpp>
#include <mamba/io/file.hpp>
#include <mamba/model/save.hpp>
#include <mamba/model/save_folder.hpp>
#include <mamba/model/state_file.hpp>
#include <mamba/train/checkpoint.hpp>
#include <mamba/train/data_parallel.hpp>

#include "corpus.hpp"
#include "encoding.hpp"
#include "evaluation.hpp"
#include "pieces.hpp"
#include "support/agreement.hpp"
#include "support/exit_codes.hpp"
#include "support/folder.hpp"
#include "support/interrupt.hpp"
#include "support/progress.hpp"
#include "support/resuming.hpp"
#include "training_history.hpp"
#include "training_options.hpp"

namespace language {

// A model on its way: what a checkpoint holds, and one step after the other. The processes of a group make the same
// calls, as with mamba::Trainer.
template <class Model>
class Training {
 public:
  // Throws Error, too, where the processes do not divide the shards, or a model on a GPU is to train in shards.
  Training(const TrainingOptions& o, const Corpus& corpus, mamba::Group& group)
      : options_(o),
        fingerprint_(corpus.fingerprint()),
        pieces_(corpus.training, o.batch, o.context, o.seed, o.carry_state),
        model_({.n_layers = o.layers, .seed = o.seed, .threads = o.threads, .device = o.gpu, .products = o.products}),
        optimizer_(model_, {.lr = o.schedule.at(0), .beta2 = o.beta2, .weight_decay = o.weight_decay}),
        parallel_(model_, group, o.shards) {
    if (o.carry_state) state_.emplace(model_.initial_state(o.batch));
  }

  Model& model() { return model_; }
  long steps() const { return optimizer_.steps(); }
  // The loss of the last step, in nats a token, and its rate.
  double last_loss() const { return last_loss_; }
  double last_lr() const { return optimizer_.lr(); }
  // The mean loss since it was last asked for.
  double take_mean_loss() {
    const double mean = loss_sum_ / static_cast<double>(loss_count_);
    loss_sum_ = 0, loss_count_ = 0;
    return mean;
  }

  // Throws Error(diverged), names the step, and changes no parameter, where loss or gradients are not finite.
  void step() {
    pieces_.draw(steps(), ids_);
    if (state_ && pieces_.begins(steps())) state_.emplace(model_.initial_state(options_.batch));
    double norm = 0;
    std::tie(last_loss_, norm) =
        parallel_.clipped_gradients(options_.clip, [&](int shard) { return gradients_of_shard(shard); });
    if (!mamba::is_finite(last_loss_) || !mamba::is_finite(norm))
      mamba::fail(mamba::ErrorKind::diverged, "step ", steps() + 1, " diverged: loss ", last_loss_, ", gradient norm ",
                  norm);
    optimizer_.set_lr(options_.schedule.at(steps()));
    parallel_.update(optimizer_);
    loss_sum_ += last_loss_, ++loss_count_;
  }

  // Throws Error(diverged) where a run could not go on from here, and Error(cannot_write).
  void save(const std::filesystem::path& path, const History& history) {
    mamba::together(parallel_.group(), [&] { mamba::check_finite(model_, optimizer_); });
    parallel_.with_whole_means(optimizer_, [&](const auto& mean, const auto& square) {
      const auto looking = model_.look();
      mamba::io::SafetensorsWriter writer;
      mamba::add_training(writer, std::as_const(model_), mean, square);
      if (state_) mamba::add_state(writer, *state_, state_prefix);
      const Json notes = Json::Members{{"options", recorded(options_)},
                                       {"text_fingerprint", fingerprint_},
                                       {"step", static_cast<std::int64_t>(steps())},
                                       {"loss_sum", loss_sum_},
                                       {"loss_count", loss_count_},
                                       {"history", history.json()}};
      writer.write(path, {{"format", "pt"},
                          {"config", mamba::config_json(model_)},
                          {"variant", mamba::variant_json(model_)},
                          {"notes", notes.dump()}});
    });
  }

  // Goes on from there: to the same bytes as without a stop, by the same binary on the same backend. Throws
  // Error(bad_file) that names the file, and changes nothing, where it is another run's or of another text.
  History load(const std::filesystem::path& path) {
    const auto file = mamba::io::SafetensorsFile::read(path);
    return support::from_file(path, [&] {
      const Json notes = mamba::read_checkpoint_notes(file);
      mamba::check_same_model(model_, file.metadata());
      if (notes.at("text_fingerprint").string() != fingerprint_)
        mamba::fail(mamba::ErrorKind::bad_file, "the run learned from other text, or by another tokenizer");
      const long at = notes.at("step").template integer<long>(), total = options_.schedule.total;
      const double sum = notes.at("loss_sum").number();
      const auto count = notes.at("loss_count").template integer<std::int64_t>();
      if (at < 0 || at > total || !mamba::is_finite(sum) || count < 0 || count > at)
        mamba::fail(mamba::ErrorKind::bad_file, "the run's place is none: step ", at, " of ", total, ", loss ", sum,
                    " over ", count, " steps");
      History history = History::from(notes.at("history"), at, options_.eval_every, total);
      auto state = state_;
      if (state) mamba::restore_state(*state, file, state_prefix, {.refuse_nonfinite = true});
      mamba::restore_training(model_, optimizer_, file, at);
      parallel_.keep_own_means(optimizer_);
      optimizer_.set_lr(options_.schedule.at(at > 0 ? at - 1 : 0));
      state_ = std::move(state);
      loss_sum_ = sum, loss_count_ = count;
      return history;
    });
  }

 private:
  static constexpr const char* state_prefix = "carried.";

  // Returns the shard's share of the loss. One shard is the batch.
  double gradients_of_shard(int shard) {
    if (state_) return model_.loss_and_gradients(ids_, options_.batch, *state_);
    const auto first = mamba::first_of_shard(options_.batch, options_.shards, shard),
               last = mamba::first_of_shard(options_.batch, options_.shards, shard + 1);
    const auto tokens = static_cast<std::size_t>(options_.context) + 1;  // of a sequence
    const auto ids = std::span<const std::int32_t>(ids_).subspan(static_cast<std::size_t>(first) * tokens,
                                                                 static_cast<std::size_t>(last - first) * tokens);
    return model_.weighted_loss_and_gradients(ids, static_cast<int>(last - first),
                                              1.0 / (static_cast<double>(options_.batch) * options_.context));
  }

  TrainingOptions options_;
  std::string fingerprint_;
  Pieces pieces_;
  Model model_;
  mamba::AdamW<Model> optimizer_;
  mamba::DataParallel<Model> parallel_;
  std::optional<mamba::State<typename Model::Architecture>> state_;
  std::vector<std::int32_t> ids_;
  double last_loss_ = 0, loss_sum_ = 0;
  std::int64_t loss_count_ = 0;
};

// What a model writes, by a run's options; nothing where it is interrupted.
template <class Model>
std::optional<std::string> sample_of(Model& model, const TrainingOptions& o, const Encoding& encoding) {
  mamba::text::TokenStream stream(encoding.tokenizer());
  std::string text;
  mamba::generate(model, encoding.encode(o.sample_prompt, true),
                  {.max_new_tokens = o.sample_tokens, .temperature = o.sample_temperature, .seed = o.seed},
                  [&](std::int32_t token) {
                    text += stream.push(token);
                    return !support::interrupted();
                  });
  if (support::interrupted()) return {};
  return text + stream.finish();
}

// A folder that generate and transformers take: the model with its tokenizer.
template <class Model>
void write_model(const Model& model, const Encoding& encoding, const support::OwnFolder& folder) {
  mamba::save_folder(model, folder.path(), {.eos_token = encoding.tokenizer().id_of("<|endoftext|>")});
  mamba::io::write_file(folder / "tokenizer.json", encoding.json());
  mamba::io::write_file(folder / "tokenizer_config.json",
                        Json(Json::Members{{"tokenizer_class", "PreTrainedTokenizerFast"}}).dump(1) + "\n");
}

// Trains, or continues, to the end or to an interrupt, in a folder of its own; together with the other processes of the
// group, of which the first one writes and tells.
//
// The checkpoint is what counts: it is written first, after an evaluation that found numbers, and all else follows from
// it. A run that continues writes again what a kill may have kept from being written. An evaluation that is interrupted
// is done anew.
template <class Model>
int train(const TrainingOptions& o, const Encoding& encoding, const Corpus& corpus, const support::OwnFolder& folder,
          mamba::Group& group) {
  using A = typename Model::Architecture;
  constexpr double checkpoint_seconds = 60, seconds_to_lose = 10;  // by an evaluation, which may be long
  constexpr bool on_cpu = std::is_same_v<typename A::Backend, mamba::Cpu>;
  const auto checkpoint = folder / "checkpoint.safetensors";
  const long total = o.schedule.total;
  std::optional<Training<Model>> own_training;
  History history;
  mamba::together(group, [&] {
    own_training.emplace(o, corpus, group);
    if (o.resume) history = own_training->load(checkpoint);
  });
  Training<Model>& training = *own_training;
  Model& model = training.model();
  std::size_t parameters = 0;
  for (const mamba::PlacedParameter& p : model.engine().placed()) parameters += p.parameter.size();

  // From nats a token of the training text, and from bits of a part of the other.
  const double of_nats =
      static_cast<double>(corpus.training.size()) / static_cast<double>(corpus.training_bytes) / std::numbers::ln2;
  const auto held_out_bits = [&](std::size_t tokens) {
    const auto part = std::span(corpus.held_out).first(std::min(tokens, corpus.held_out.size()));
    std::size_t bytes = corpus.held_out_bytes;
    if (part.size() < corpus.held_out.size()) {
      bytes = 0;
      for (const std::int32_t token : part) bytes += encoding.tokenizer().bytes_of(token).size();
    }
    auto bits = bits_of(model, part, [] { return !support::interrupted(); });
    if (bits) *bits /= static_cast<double>(bytes);
    return bits;
  };
  const std::string title = std::string(A::Mixer::name) + ", width " + std::to_string(o.width) + ", " +
                            std::to_string(o.layers) + " layers, seed " + std::to_string(o.seed);
  const auto write_log = [&] {
    mamba::io::write_file(folder / "training_log.csv", history.csv());
    mamba::io::write_file(folder / "curves.svg", history.svg(title));
    mamba::io::write_file(folder / "samples.txt", history.samples());
  };
  mamba::in_first(group, [&] {
    if (!o.resume) mamba::io::write_file(folder / "options.json", recorded(o).dump(2) + "\n");
    else if (!history.rows.empty()) write_log();
  });
  if (group.is_first())
    std::fprintf(stderr, "%s %s of %s million parameters on the %s%s, %ld steps of %d x %d tokens, into %s\n",
                 o.resume ? "Continuing" : "Training", title.c_str(),
                 mamba::general_text(static_cast<double>(parameters) / 1e6, 3).c_str(),
                 on_cpu ? "CPU" : ("GPU " + std::to_string(o.gpu)).c_str(),
                 group.size() > 1 ? (" by " + std::to_string(group.size()) + " processes").c_str() : "", total, o.batch,
                 o.context, folder.string().c_str());

  support::catch_interrupts();
  const double start = support::seconds_now();
  const long steps_before = training.steps();
  double last_checkpoint = start, recent_loss = NAN;
  std::string found;
  {
    support::Progress progress(static_cast<double>(total), static_cast<double>(training.steps()));
    const auto save = [&] { training.save(checkpoint, history), last_checkpoint = support::seconds_now(); };
    const auto agreed = [&](double seconds) {
      return support::agree(group, {.interrupted = support::interrupted(),
                                    .checkpoint_is_due = support::seconds_now() - last_checkpoint > seconds});
    };
    const auto is_due = [&] {
      const long step = training.steps();
      return step > 0 && (step % o.eval_every == 0 || step == total) &&
             (history.rows.empty() || history.rows.back().step != step);
    };
    // Whether it came to its end.
    const auto evaluate = [&] {
      const long step = training.steps();
      if (agreed(seconds_to_lose).checkpoint_is_due) save();
      std::optional<double> held_out;
      std::optional<std::string> sample;
      mamba::together(group, [&] {
        held_out = held_out_bits(step == total ? corpus.held_out.size() : static_cast<std::size_t>(o.eval_tokens));
        if (held_out) sample = sample_of(model, o, encoding);
      });
      if (support::agree(group, {.interrupted = !sample}).interrupted) return false;
      history.rows.push_back({step, training.take_mean_loss() * of_nats, *held_out, training.last_lr(), *sample});
      save();
      mamba::in_first(group, write_log);
      found = "  held-out " + mamba::fixed_text(*held_out, 3);
      progress.finish();
      if (group.is_first()) std::fprintf(stderr, "--- step %ld writes: %s\n", step, sample->c_str());
      return true;
    };
    while (is_due() || training.steps() < total) {
      if (!is_due()) {
        training.step();
        const double loss = training.last_loss();
        recent_loss = std::isnan(recent_loss) ? loss : 0.95 * recent_loss + 0.05 * loss;
      }
      const long step = training.steps();
      const bool stopped = is_due() && !evaluate();
      const auto said = agreed(checkpoint_seconds);
      if (stopped || (said.interrupted && step < total)) {
        save();
        progress.finish();
        if (group.is_first())
          support::advise_to_continue("train_language_model", folder.string(), step, total, on_cpu ? -1 : o.gpu);
        return support::interrupted_run;
      }
      if (said.checkpoint_is_due) save();
      if (std::isnan(recent_loss) || !group.is_first()) continue;  // an evaluation that was due, and no step yet
      const double now = support::seconds_now();
      const double tokens = static_cast<double>(step - steps_before) * o.batch * o.context;
      progress.show(static_cast<double>(step), "step " + std::to_string(step) + "/" + std::to_string(total) +
                                                   "  loss " + mamba::fixed_text(recent_loss, 3) + "  bits a byte " +
                                                   mamba::fixed_text(recent_loss * of_nats, 3) + found + "  " +
                                                   mamba::fixed_text(tokens / (now - start), 0) + " tokens/s");
    }
  }

  const Evaluation& end = history.rows.back();  // there is one: a run ends with an evaluation
  Json::Members metrics{{"heldout_bits_per_byte", end.held_out},
                        {"train_bits_per_byte", end.training},
                        {"heldout_bytes", static_cast<std::uint64_t>(corpus.held_out_bytes)},
                        {"train_bytes", static_cast<std::uint64_t>(corpus.training_bytes)},
                        {"parameters", static_cast<std::uint64_t>(parameters)},
                        {"steps", static_cast<std::int64_t>(total)},
                        {"tokens", static_cast<std::int64_t>(total) * o.batch * o.context}};
  mamba::in_first(group, [&] {
    write_model(model, encoding, folder);
    mamba::io::write_file(folder / "metrics.json", Json(metrics).dump(2) + "\n");
  });
  if (!group.is_first()) return support::done;
  const double seconds = support::seconds_now() - start;
  if (o.json) {
    metrics.emplace_back("seconds", seconds);
    metrics.emplace_back("out", folder.string());
    std::cout << Json(metrics).dump(2) << "\n";
    return support::done;
  }
  std::printf(
      "%s bits a byte on the held-out text (%zu bytes), %s on the training text, in %s.\n"
      "In %s: the model (config.json, model.safetensors, tokenizer.json), curves.svg,\n"
      "training_log.csv, samples.txt, metrics.json, options.json and checkpoint.safetensors.\n"
      "It goes on with a text: generate --model %s --prompt \"...\"\n",
      mamba::fixed_text(end.held_out, 3).c_str(), corpus.held_out_bytes, mamba::fixed_text(end.training, 3).c_str(),
      support::duration_text(seconds).c_str(), folder.string().c_str(), folder.string().c_str());
  return support::done;
}

}  // namespace language
