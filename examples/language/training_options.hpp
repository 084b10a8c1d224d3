// The options of a training of a language model: what of it a user may say, where the defaults come from, how a run's
// record and its checkpoints have them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/text/utf8.hpp>
#include <mamba/train/optimizer.hpp>
#include <mamba/train/schedule.hpp>

#include "support/option_values.hpp"
#include "support/text_file.hpp"

namespace language {

using mamba::io::Json;

struct TrainingOptions {
  std::vector<std::filesystem::path> texts;
  std::string tokenizer = "bytes";
  std::string mixer = "mamba1";
  int width = 128, layers = 4;
  int context = 128, batch = 8;
  bool carry_state = false;
  mamba::Schedule schedule{.initial_lr = 1e-5, .lr = 4e-3, .final_lr = 8e-5, .warmup = 100, .total = 4500};
  double weight_decay = 0.1, beta2 = 0.99, clip = 1;
  int shards = 1;
  double held_out = 0.05;
  long eval_every = 500, eval_tokens = 16384;
  std::string sample_prompt = "\n";
  int sample_tokens = 200;
  double sample_temperature = 0.8;
  std::uint64_t seed = 0;
  mamba::Products products = mamba::Products::exact;
  // What decides nothing.
  int threads = 0;
  int gpu = 0;
  std::filesystem::path out;
  bool resume = false, json = false;

  // Throws Error(invalid_argument) on what is out of range.
  void check() const {
    schedule.check();
    mamba::require(!texts.empty(), "a text is needed");
    mamba::require(layers >= 1 && layers <= 1000, "a model has 1 to 1000 layers; given ", layers);
    mamba::require(context >= 1 && batch >= 1 && std::int64_t{batch} * (std::int64_t{context} + 1) <= 1 << 28,
                   "a batch of ", batch, " sequences and a context of ", context, " are none that a step can take");
    mamba::require(clip > 0 && mamba::is_finite(clip), "the largest gradient norm must be a positive number; given ",
                   clip);
    mamba::require(shards >= 1 && shards <= batch, "a batch of ", batch, " sequences is cut into 1 to ", batch,
                   " shards; given ", shards);
    mamba::require(shards == 1 || !carry_state, "with carry_state a batch is not cut; given ", shards, " shards");
    mamba::AdamWOptions{.lr = schedule.lr, .beta2 = beta2, .weight_decay = weight_decay}.check();
    mamba::require(held_out > 0 && held_out < 1, "the share that is held out is between 0 and 1; given ", held_out);
    mamba::require(eval_every >= 1 && eval_tokens >= 2, "an evaluation reads two tokens at least, and comes after a ",
                   "step at least; given ", eval_tokens, " and ", eval_every);
    mamba::require(sample_tokens >= 0, "a sample has 0 tokens or more; given ", sample_tokens);
    mamba::require(!sample_prompt.empty(), "a sample goes on from a prompt");
    mamba::text::check_utf8(sample_prompt);
    mamba::Sampling{sample_temperature, seed}.check();
  }
};

// f(option, what it is, field) for each that has one value and decides a run's result.
template <class F>
void for_each_field(TrainingOptions& o, F&& f) {
  f("--tokenizer", "tokenizer.json, or a folder that has one, or bytes: a byte a token", o.tokenizer);
  f("--mixer", "which block mixes the tokens: mamba1, mamba2 or mamba3", o.mixer);
  f("--width", "d_model, of the table in examples/language/sizes.cmake", o.width);
  f("--layers", "number of layers", o.layers);
  f("--context", "tokens of a sequence that a step predicts", o.context);
  f("--batch", "sequences a step", o.batch);
  f("--carry-state",
    "sequences of a step go on where those of the step before ended, from their states: truncated back-propagation",
    o.carry_state);
  f("--steps", "length of the run", o.schedule.total);
  f("--lr", "learning rate after the warm-up", o.schedule.lr);
  f("--initial-lr", "learning rate at the start", o.schedule.initial_lr);
  f("--final-lr", "learning rate at the end of the cosine", o.schedule.final_lr);
  f("--warmup", "steps of warm-up; unless given, at most a tenth of the run", o.schedule.warmup);
  f("--weight-decay", "AdamW's, on every parameter", o.weight_decay);
  f("--beta2", "AdamW's", o.beta2);
  f("--clip", "largest gradient norm", o.clip);
  f("--shards",
    "parts of a batch that processes started together share out, whose gradients are added up in a fixed order; as "
    "many processes as divide it give the same result",
    o.shards);
  f("--held-out", "share of the text, its end, that is not learned from but measured on", o.held_out);
  f("--eval-every", "steps between evaluations", o.eval_every);
  f("--eval-tokens", "held-out tokens that an evaluation on the way reads; the last one reads all", o.eval_tokens);
  f("--sample-prompt", "what samples of text go on from", o.sample_prompt);
  f("--sample-tokens", "tokens of a sample; 0: none", o.sample_tokens);
  f("--sample-temperature", "of samples", o.sample_temperature);
  f("--seed", "of initial weights, order and samples", o.seed);
  f("--products", "how a GPU multiplies: exact, as the CPU; tf32: with 11 bits of each operand", o.products);
}

// What decides a run's result, as options.json and checkpoints record it.
inline Json recorded(TrainingOptions o) {
  Json::Elements texts;
  for (const auto& text : o.texts) texts.emplace_back(text.string());
  Json::Members members{{"text", std::move(texts)}};
  for_each_field(o, [&](const char* option, const char*, auto& field) {
    members.emplace_back(support::key_of(option), support::json_of(field));
  });
  return members;
}

// The options that a record in a file holds. Throws Error(bad_file) that names the file.
inline void restore(TrainingOptions& o, const Json& json, const std::filesystem::path& file) {
  support::from_file(file, [&] {
    o.texts.clear();
    for (const Json& text : json.at("text").elements()) o.texts.emplace_back(text.string());
    o.shards = 1;  // of records that are older than the choice
    for_each_field(o, [&](const char* option, const char*, auto& field) {
      const std::string key = support::key_of(option);
      if (key != "shards" || json.find(key)) support::set_from_json(field, json.at(key));
    });
    o.check();
  });
}

// Where options start from: those given beside a preset win.
//   tiny    about three minutes on two cores, for any text of 1 MB or more: bytes, 0.5 million parameters
//   small   30 million parameters, for a GPU
inline const std::vector<std::string> preset_names{"tiny", "small"};

inline TrainingOptions preset(std::string_view name) {
  TrainingOptions o;
  if (name != "small") return o;
  o.mixer = "mamba2", o.width = 512, o.layers = 18;
  o.context = 1024, o.batch = 32;
  o.schedule = {.initial_lr = 1e-6, .lr = 1e-3, .final_lr = 1e-5, .warmup = 100, .total = 2500};
  o.eval_every = 250, o.eval_tokens = 65536;
  o.products = mamba::Products::tf32;
  return o;
}

}  // namespace language
