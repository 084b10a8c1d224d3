// How a text is cut into words, whose bytes are encoded each by itself: a tokenizer file's "pre_tokenizer".
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/json.hpp>
#include <mamba/text/pattern.hpp>

namespace mamba::text {

class PreTokenizer {
 public:
  // Throws Error(bad_file) for what the file asks for that is not there, by its name.
  explicit PreTokenizer(const io::Json& file) {
    add(file);
    if (!has_bytes_)
      fail(ErrorKind::bad_file,
           "the tokenizer's pre_tokenizer has no ByteLevel: only byte-level vocabularies are supported");
  }

  // word(piece) for each of a text's, which are there as long as the call lasts. text: valid UTF-8.
  template <class F>
  void each_word(std::string_view text, F&& word) const {
    cut(0, text, word);
  }

 private:
  // What becomes of the pieces that a pattern matches.
  enum class Behavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };
  struct Step {
    std::vector<Pattern> pattern;  // one or none
    Behavior behavior = Behavior::isolated;
    bool inverts = false, adds_space = false;
  };

  void add(const io::Json& file) {
    if (file.is_null()) return;
    const std::string& type = file.at("type").string();
    if (type != "Sequence" && has_bytes_)
      fail(ErrorKind::bad_file, "the tokenizer's pre_tokenizer has ", io::in_quotes(type),
           " behind ByteLevel, which is not supported");
    if (type == "Sequence") {
      for (const io::Json& step : file.at("pretokenizers").elements()) add(step);
    } else if (type == "ByteLevel") {
      Step step;
      if (const io::Json* given = file.find("add_prefix_space")) step.adds_space = given->boolean();
      const io::Json* given = file.find("use_regex");
      if (!given || given->boolean()) step.pattern.emplace_back(words_of_gpt2);
      has_bytes_ = true;
      steps_.push_back(std::move(step));
    } else if (type == "Split") {
      Step step;
      const io::Json& pattern = file.at("pattern");
      if (const io::Json* expression = pattern.find("Regex")) step.pattern.emplace_back(expression->string());
      else step.pattern.push_back(Pattern::literal(pattern.at("String").string()));
      step.behavior = behavior(file.at("behavior").string());
      if (const io::Json* given = file.find("invert")) step.inverts = given->boolean();
      steps_.push_back(std::move(step));
    } else if (type == "Digits") {
      const io::Json* given = file.find("individual_digits");
      Step step;
      step.pattern.emplace_back(given && given->boolean() ? "\\p{N}" : "\\p{N}+");
      steps_.push_back(std::move(step));
    } else {
      fail(ErrorKind::bad_file, "the tokenizer's pre_tokenizer ", io::in_quotes(type),
           " is not supported (ByteLevel, Split, Digits, Sequence are)");
    }
  }

  static Behavior behavior(const std::string& name) {
    static const std::pair<const char*, Behavior> known[] = {{"Isolated", Behavior::isolated},
                                                             {"Removed", Behavior::removed},
                                                             {"MergedWithPrevious", Behavior::merged_with_previous},
                                                             {"MergedWithNext", Behavior::merged_with_next},
                                                             {"Contiguous", Behavior::contiguous}};
    for (const auto& [text, value] : known)
      if (name == text) return value;
    fail(ErrorKind::bad_file, "the tokenizer's split behavior ", io::in_quotes(name), " is not supported");
  }

  template <class F>
  void cut(std::size_t at, std::string_view text, F& word) const {
    if (at == steps_.size()) return word(text);
    const Step& step = steps_[at];
    std::string with_space;
    if (step.adds_space && !text.starts_with(' ')) text = with_space = " " + std::string(text);
    if (step.pattern.empty()) return cut(at + 1, text, word);

    // A piece that waits to be joined with the next, and whether it is a match.
    std::string_view waiting;
    bool waits_as_match = false;
    const auto give = [&](std::string_view piece) {
      if (!piece.empty()) cut(at + 1, piece, word);
    };
    const auto join = [&](std::string_view piece) {  // which lies behind what waits
      waiting = waiting.empty() ? piece : std::string_view(waiting.data(), waiting.size() + piece.size());
    };
    step.pattern.front().each_piece(text, [&](std::string_view piece, bool is_match) {
      const bool matches = is_match != step.inverts;
      switch (step.behavior) {
        case Behavior::isolated:
          return give(piece);
        case Behavior::removed:
          return matches ? void() : give(piece);
        case Behavior::merged_with_previous:  // a match ends a piece
          if (!matches || waits_as_match) give(std::exchange(waiting, {}));
          join(piece);
          waits_as_match = matches;
          return;
        case Behavior::merged_with_next:  // a match begins one
          if (matches || !waits_as_match) give(std::exchange(waiting, {}));
          join(piece);
          waits_as_match = matches;
          return;
        case Behavior::contiguous:
          if (matches != waits_as_match) give(std::exchange(waiting, {}));
          join(piece);
          waits_as_match = matches;
          return;
      }
    });
    give(waiting);
  }

  static constexpr const char* words_of_gpt2 =
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

  std::vector<Step> steps_;
  bool has_bytes_ = false;
};

}  // namespace mamba::text
