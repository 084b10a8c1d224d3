// Goes on with a text by a language model in a folder, as Hugging Face transformers and mamba_ssm save them.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <mamba/model/device.hpp>

#include "encoding.hpp"
#include "generator.hpp"
#include "requested_sizes.hpp"
#include "stop_texts.hpp"
#include "support/arguments.hpp"
#include "support/device.hpp"
#include "support/gpu.hpp"
#include "support/progress.hpp"

namespace language {
namespace {

struct Request {
  std::filesystem::path model;
  std::string tokenizer;  // empty: the folder's own
  std::string precision = "float";
  mamba::GenerateOptions options{};
  std::vector<std::string> stops;
  bool echo = false;
};

const std::vector<BuiltGenerator>& built(const std::string& precision, bool gpu) {
  if (precision == "int8") return gpu ? int8weights_generators_on_gpu() : int8weights_generators_on_cpu();
  if (precision == "bfloat16") return gpu ? bfloat16_generators_on_gpu() : bfloat16_generators_on_cpu();
  return gpu ? float_generators_on_gpu() : float_generators_on_cpu();
}

// The type for what a folder holds. Throws Error(invalid_argument) that says how this program gets it.
const BuiltGenerator& find(const std::vector<BuiltGenerator>& all, const std::string& fields) {
  std::string sizes;
  for (const BuiltGenerator& own : all) {
    if (own.fields == fields) return own;
    sizes += "\n  " + own.fields;
  }
  std::string advice = "Add to mamba_published_sizes in examples/language/sizes.cmake the line\n  \"my-model " +
                       fields + "\"\nand build again: cmake --build --preset release --target generate";
  for (const SizeLine& line : requested_sizes)
    if (line.fields == fields)
      advice =
          std::string("It is ") + line.name +
          " of examples/language/sizes.cmake. Build it: cmake --preset release -DMAMBA_LANGUAGE_SIZES=" + line.name +
          " && cmake --build --preset release --target generate";
  mamba::fail(mamba::ErrorKind::invalid_argument, "the folder's model is ", fields,
              " (mixer, d_model, vocabulary, d_state, d_conv, expand, head), for which this program was not built. ",
              advice, "\nIt was built for", sizes);
}

// What ends a text: what the folder says, or else the tokenizer's <|endoftext|>.
std::vector<std::int32_t> ends_of_text(const mamba::ModelDescription& model, const Encoding& encoding) {
  const auto id = encoding.tokenizer().id_of("<|endoftext|>");
  if (model.end_tokens.empty() && id) return {*id};
  return model.end_tokens;
}

// Writes what follows a prompt, as it comes, and how fast it came.
void answer(Generator& generator, const Encoding& encoding, const Request& request, const std::string& text,
            const std::vector<std::int32_t>& prompt) {
  mamba::text::TokenStream stream(encoding.tokenizer(), true);
  StopTexts stops(request.stops);
  const auto show = [](const std::string& more) {
    if (!(std::cout << more << std::flush))
      mamba::fail(mamba::ErrorKind::cannot_write, "standard output cannot be written");
  };
  if (request.echo) show(text);
  std::size_t count = 0;
  const double begin = support::seconds_now();
  double first = begin, last = begin;
  generator.generate(prompt, request.options, [&](std::int32_t token) {
    last = support::seconds_now();
    if (count++ == 0) first = last;
    show(stops.push(stream.push(token)));
    return !stops.stopped();
  });
  show(stops.push(stream.finish()) + stops.finish() + "\n");
  const auto rate = [](std::size_t tokens, double seconds) {
    return tokens == 0 || seconds <= 0 ? std::string("-")
                                       : mamba::general_text(static_cast<double>(tokens) / seconds, 4);
  };
  // The first token is the prompt's work.
  std::fprintf(stderr, "prompt: %zu tokens, %s tokens/s; text: %zu tokens, %s tokens/s\n", prompt.size(),
               rate(prompt.size(), first - begin).c_str(), count,
               rate(count > 0 ? count - 1 : 0, last - first).c_str());
}

// A prompt's tokens. Throws Error(invalid_argument), that says which one it is.
std::vector<std::int32_t> tokens_of(const Encoding& encoding, const std::string& prompt, const std::string& which) {
  mamba::require(!prompt.empty(), which, " is empty: a model goes on from a token at least");
  try {
    auto ids = encoding.encode(prompt, true);
    mamba::require(!ids.empty(), "it has no token");
    return ids;
  } catch (const mamba::Error& error) {
    mamba::fail(mamba::ErrorKind::invalid_argument, which, ": ", error.what());
  }
}

int run(int argc, char** argv) {
  Request request;
  mamba::GenerateOptions& o = request.options;
  o.temperature = 0.8;
  std::string prompt, score, device = "auto";
  int threads = 0;
  support::CommandLine app{
      "Goes on with a text by a language model: a folder as Hugging Face transformers, mamba_ssm or "
      "train_language_model write it. What follows goes to standard output as it comes, tokens/s to standard error."};
  app.add_option("--model", request.model, "folder with config.json and model.safetensors, or its shards")->required();
  const CLI::Option* const has_prompt =
      app.add_option("--prompt", prompt, "what to go on from; unless given, each line of standard input");
  app.add_option("--tokenizer", request.tokenizer,
                 "tokenizer.json, or a folder that has one, or bytes: a byte a token; unless given, the model's");
  app.add_option("--max-tokens", o.max_new_tokens, "how many tokens at most")->check(CLI::NonNegativeNumber);
  app.add_option("--temperature", o.temperature, "0: the likeliest token; else at random, the more the higher");
  app.add_option("--top-k", o.top_k, "of so many likeliest tokens; 0: of all")->check(CLI::NonNegativeNumber);
  app.add_option("--top-p", o.top_p, "of the fewest likeliest tokens whose probabilities come to this");
  app.add_option("--min-p", o.min_p, "of tokens at least this likely beside the likeliest");
  app.add_option("--repetition-penalty", o.repetition_penalty, "makes tokens that were there less likely; 1: none");
  app.add_option("--seed", o.seed, "of what is at random")->check(support::is_seed);
  app.add_option("--stop", request.stops, "the text ends before this; may be given again")
      ->allow_extra_args(false);  // else CLI11 takes brackets for a list's
  app.add_option("--precision", request.precision,
                 "what weights and activations are stored in; int8: weights in 8 bits, the rest in float")
      ->check(CLI::IsMember({"float", "bfloat16", "int8"}));
  app.add_option("--device", device, "where to run: auto (a GPU if there is one), cpu, cuda or cuda:N");
  app.add_option("--threads", threads, "0: all cores; the text does not depend on it")->check(CLI::NonNegativeNumber);
  app.add_flag("--echo", request.echo, "write the prompt before what follows it");
  app.add_option("--score", score, "instead of going on: how many bits a byte the model needs for this file's text")
      ->excludes("--prompt");
  if (const auto ends = support::parse(app, argc, argv)) return *ends;

  const auto choice = mamba::DeviceChoice::parse(device);
  const auto description = mamba::describe(request.model);
  const auto encoding = Encoding::of(request.tokenizer.empty() ? request.model.string() : request.tokenizer);
  if (encoding.vocab_size() > description.config.vocab_size)
    mamba::fail(mamba::ErrorKind::invalid_argument, "the tokenizer has ", encoding.vocab_size(),
                " tokens, beyond the model's vocabulary of ", description.config.vocab_size);
  o.stop_tokens = ends_of_text(description, encoding);
  o.check(description.config.vocab_size);
  std::vector<std::int32_t> ids;
  if (*has_prompt) ids = tokens_of(encoding, prompt, "the prompt");
  std::string text;
  if (!score.empty()) {
    text = support::read_text(score);
    support::from_file(score, [&] {
      ids = encoding.encode(text, false);
      mamba::require(!ids.empty(), "it has no token");
    });
  }
  const bool gpu = support::use_gpu(choice, support::gpu_problem);
  const auto& all = built(request.precision, gpu);
  const auto generator =
      find(all, fields_of(description))
          .load(request.model,
                {.n_layers = description.n_layers, .draw = false, .threads = threads, .device = choice.index});
  if (!score.empty())
    std::printf("%s bits a byte (%zu bytes, %zu tokens)\n",
                mamba::fixed_text(generator->bits(ids) / static_cast<double>(text.size()), 4).c_str(), text.size(),
                ids.size());
  else if (*has_prompt) answer(*generator, encoding, request, prompt, ids);
  else
    for (long line = 1; std::getline(std::cin, prompt); ++line)
      answer(*generator, encoding, request, prompt,
             tokens_of(encoding, prompt, "line " + std::to_string(line) + " of standard input"));
  if (!*has_prompt && score.empty() && std::ferror(stdin) != 0)
    mamba::fail(mamba::ErrorKind::bad_file, "standard input cannot be read");
  return support::done;
}

}  // namespace
}  // namespace language

int main(int argc, char** argv) {
  return support::guarded("generate", [&] { return language::run(argc, argv); });
}
