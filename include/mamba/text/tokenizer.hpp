// Text to tokens and back, by a tokenizer.json as Hugging Face's tokenizers library writes it: byte-level BPE, as
// GPT-NeoX's and Llama 3's are. It gives the same tokens. Link mamba::text, which has PCRE2 and utf8proc.
//
//   const auto tokenizer = mamba::text::Tokenizer::from_file("mamba-130m-hf/tokenizer.json");
//   const std::vector<std::int32_t> ids = tokenizer.encode("State spaces are");
//   const std::string text = tokenizer.decode(ids);
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>
#include <mamba/io/load_options.hpp>
#include <mamba/text/added_tokens.hpp>
#include <mamba/text/byte_level.hpp>
#include <mamba/text/byte_pairs.hpp>
#include <mamba/text/normalizer.hpp>
#include <mamba/text/pre_tokenizer.hpp>
#include <mamba/text/utf8.hpp>

namespace mamba::text {

class Tokenizer {
 public:
  // A tokenizer.json, or a folder with one. Throws Error(bad_file): the file cannot be read or is no such file, or it
  // asks for what is not supported, which the message names.
  static Tokenizer from_file(const std::filesystem::path& path) {
    std::error_code none;
    const auto file = std::filesystem::is_directory(path, none) ? path / "tokenizer.json" : path;
    const std::vector<char> text = io::read_file(file);
    return io::naming(file, [&] { return from_text({text.data(), text.size()}); });
  }
  // The same of such a file's text.
  static Tokenizer from_text(std::string_view text) { return Tokenizer(io::Json::parse(text)); }

  // How many tokens there are, added ones with them. A model's vocabulary may be padded to more.
  int vocab_size() const { return vocab_size_; }

  // The tokens of a text. add_special_tokens: with those that the file puts before and behind every text; those that
  // stand in the text itself are found either way. Throws Error(invalid_argument) where the text is not valid UTF-8.
  // May be called by several threads at once.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special_tokens = true) const {
    check_utf8(text);
    std::vector<std::int32_t> ids;
    if (add_special_tokens) ids = before_;
    Words words;
    const auto token = [&](std::int32_t id) { ids.push_back(id); };
    const auto encode_piece = [&](std::string_view piece) {
      pre_tokenizer_.each_word(piece, [&](std::string_view word) { append_word(ids, word, words); });
    };
    verbatim_.each_piece(
        text,
        [&](std::string_view piece) {
          if (normalizer_.changes_nothing()) return normalized_.each_piece(piece, encode_piece, token);
          normalized_.each_piece(normalizer_(piece), encode_piece, token);
        },
        token);
    if (add_special_tokens) ids.insert(ids.end(), behind_.begin(), behind_.end());
    return ids;
  }

  // The text of tokens; U+FFFD for bytes that are no UTF-8. Numbers that stand for no token are left out, and special
  // tokens where the caller says so.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = false) const {
    std::string bytes, text;
    for (const std::int32_t id : ids) bytes += bytes_of(id, skip_special_tokens);
    append_decoded(text, bytes, true);
    return text;
  }

  // The bytes that a token stands for, which may be a part of a character.
  std::string_view bytes_of(std::int32_t id, bool skip_special_tokens = false) const {
    if (id < 0 || static_cast<std::size_t>(id) >= bytes_.size()) return {};
    const Bytes& token = bytes_[static_cast<std::size_t>(id)];
    return token.special && skip_special_tokens ? std::string_view() : std::string_view(token.text);
  }

  // The number of a token by what the file calls it, such as "<|endoftext|>".
  std::optional<std::int32_t> id_of(std::string_view token) const {
    const auto found = ids_.find(std::string(token));
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  struct Bytes {
    std::string text;
    bool special = false;
  };
  // What words of a text have become: most come again.
  struct Words {
    struct Stretch {
      std::size_t first, count;
    };
    struct Hash : std::hash<std::string_view> {
      using is_transparent = void;
    };
    std::unordered_map<std::string, Stretch, Hash, std::equal_to<>> known;
    std::vector<std::int32_t> ids;
  };

  explicit Tokenizer(const io::Json& file)
      : normalizer_(member(file, "normalizer")),
        pre_tokenizer_(member(file, "pre_tokenizer")),
        pairs_(file.at("model")) {
    for (const char* option : {"truncation", "padding"})
      if (!member(file, option).is_null())
        fail(ErrorKind::bad_file, "the tokenizer has ", option, ", which is not supported");
    check_decoder(member(file, "decoder"));
    const auto& tokens = pairs_.tokens();
    for (std::size_t id = 0; id < tokens.size(); ++id)
      if (!tokens[id].empty()) set_token(static_cast<std::int32_t>(id), tokens[id], tokens[id], false);
    if (const io::Json& added = member(file, "added_tokens"); !added.is_null())
      for (const io::Json& token : added.elements()) add(AddedToken(token));
    add_template(member(file, "post_processor"));
    vocab_size_ = static_cast<int>(ids_.size());
  }

  static const io::Json& member(const io::Json& file, const char* name) {
    static const io::Json null;
    const io::Json* found = file.find(name);
    return found ? *found : null;
  }

  // text: what it becomes again, in the file's characters for bytes where all of it are.
  void set_token(std::int32_t id, const std::string& token, const std::string& text, bool special) {
    const auto at = static_cast<std::size_t>(id);
    if (at >= bytes_.size()) bytes_.resize(at + 1);
    bytes_[at] = {bytes_of_token(text).value_or(text), special};
    ids_.insert_or_assign(token, id);
  }

  void add(const AddedToken& token) {
    constexpr std::int32_t most = 1 << 24;
    if (token.id >= most) fail(ErrorKind::bad_file, "the tokenizer's added token ", token.id, " is out of range");
    const auto known = ids_.find(token.content);
    if (known != ids_.end() && known->second != token.id)
      fail(ErrorKind::bad_file, "the tokenizer's token ", io::in_quotes(token.content), " has two numbers, ",
           known->second, " and ", token.id);
    const std::string content = token.normalized ? normalizer_(token.content) : token.content;
    set_token(token.id, token.content, content, token.special);
    (token.normalized ? normalized_ : verbatim_).add(token, content);
  }

  static void check_decoder(const io::Json& file) {
    if (file.is_null()) return;
    const std::string& type = file.at("type").string();
    if (type != "ByteLevel")
      fail(ErrorKind::bad_file, "the tokenizer's decoder ", io::in_quotes(type), " is not supported (ByteLevel is)");
  }

  // What the file puts around a text.
  void add_template(const io::Json& file) {
    if (file.is_null()) return;
    const std::string& type = file.at("type").string();
    if (type == "Sequence") {
      for (const io::Json& step : file.at("processors").elements()) add_template(step);
    } else if (type == "TemplateProcessing") {
      std::vector<std::int32_t> before, behind;
      bool has_text = false;
      for (const io::Json& piece : file.at("single").elements()) {
        if (const io::Json* special = piece.find("SpecialToken")) {
          const io::Json& token = file.at("special_tokens").at(special->at("id").string());
          for (const io::Json& id : token.at("ids").elements()) {
            const auto number = id.integer<std::int32_t>();
            if (bytes_of(number).empty())
              fail(ErrorKind::bad_file, "the tokenizer's template has the token ", number, ", which there is not");
            (has_text ? behind : before).push_back(number);
          }
        } else {
          piece.at("Sequence");
          if (std::exchange(has_text, true))
            fail(ErrorKind::bad_file, "the tokenizer's template repeats the text, which is not supported");
        }
      }
      if (!has_text) fail(ErrorKind::bad_file, "the tokenizer's template leaves out the text");
      before_.insert(before_.begin(), before.begin(), before.end());
      behind_.insert(behind_.end(), behind.begin(), behind.end());
    } else if (type != "ByteLevel") {  // which moves places in the text alone
      fail(ErrorKind::bad_file, "the tokenizer's post_processor ", io::in_quotes(type),
           " is not supported (TemplateProcessing, ByteLevel, Sequence are)");
    }
  }

  void append_word(std::vector<std::int32_t>& ids, std::string_view word, Words& words) const {
    constexpr std::size_t longest = 64, most = std::size_t{1} << 18;  // of what is worth keeping
    if (word.size() > longest) return pairs_.append(ids, word);
    auto known = words.known.find(word);
    if (known == words.known.end()) {
      const std::size_t first = words.ids.size();
      pairs_.append(words.ids, word);
      known = words.known.emplace(word, Words::Stretch{first, words.ids.size() - first}).first;
    }
    const auto [first, count] = known->second;
    ids.insert(ids.end(), words.ids.begin() + static_cast<std::ptrdiff_t>(first),
               words.ids.begin() + static_cast<std::ptrdiff_t>(first + count));
    if (words.known.size() >= most) words = {};
  }

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  BytePairs pairs_;
  AddedTokenFinder verbatim_, normalized_;
  std::vector<std::int32_t> before_, behind_;
  std::vector<Bytes> bytes_;
  std::unordered_map<std::string, std::int32_t> ids_;
  int vocab_size_ = 0;
};

// Text from tokens as they come, whole characters alone: push() each, and finish().
class TokenStream {
 public:
  // The tokenizer must outlive it.
  explicit TokenStream(const Tokenizer& tokenizer, bool skip_special_tokens = false)
      : tokenizer_(&tokenizer), skips_special_(skip_special_tokens) {}

  // What the token adds to the text; a character that is not whole yet waits.
  std::string push(std::int32_t id) {
    waiting_ += tokenizer_->bytes_of(id, skips_special_);
    return take(false);
  }
  // What still waits, as U+FFFD; from here on the stream is as new.
  std::string finish() { return take(true); }

 private:
  std::string take(bool is_last) {
    std::string text;
    waiting_.erase(0, append_decoded(text, waiting_, is_last));
    return text;
  }

  const Tokenizer* tokenizer_;
  bool skips_special_;
  std::string waiting_;
};

}  // namespace mamba::text
