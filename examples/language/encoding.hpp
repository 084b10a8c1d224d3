// What makes tokens of a text, and a text of tokens: a tokenizer.json, or its bytes, a token each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mamba/io/json.hpp>
#include <mamba/text/tokenizer.hpp>

#include "support/text_file.hpp"

namespace language {

// A tokenizer.json in which a token is a byte: token n is the byte n.
inline std::string byte_tokenizer_json() {
  using mamba::io::Json;
  Json::Members vocabulary;
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    mamba::text::append_utf8(character, mamba::text::byte_characters[static_cast<std::size_t>(byte)]);
    vocabulary.emplace_back(std::move(character), byte);
  }
  const Json byte_level =
      Json::Members{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
  return Json(Json::Members{{"version", "1.0"},
                            {"truncation", Json()},
                            {"padding", Json()},
                            {"added_tokens", Json::Elements{}},
                            {"normalizer", Json()},
                            {"pre_tokenizer", byte_level},
                            {"post_processor", Json()},
                            {"decoder", byte_level},
                            {"model", Json::Members{{"type", "BPE"},
                                                    {"dropout", Json()},
                                                    {"unk_token", Json()},
                                                    {"continuing_subword_prefix", Json()},
                                                    {"end_of_word_suffix", Json()},
                                                    {"fuse_unk", false},
                                                    {"byte_fallback", false},
                                                    {"ignore_merges", false},
                                                    {"vocab", std::move(vocabulary)},
                                                    {"merges", Json::Elements{}}}}})
             .dump(1) +
         "\n";
}

class Encoding {
 public:
  // "bytes", or a tokenizer.json, or a folder that has one. Throws Error(bad_file).
  static Encoding of(const std::string& name) {
    if (name == "bytes") return Encoding(byte_tokenizer_json(), true);
    std::error_code none;
    const std::filesystem::path path = name;
    const auto file = std::filesystem::is_directory(path, none) ? path / "tokenizer.json" : path;
    const std::string json = support::read_text(file);
    return support::from_file(file, [&] { return Encoding(json, false); });
  }

  bool is_bytes() const { return is_bytes_; }
  const std::string& json() const { return json_; }
  const mamba::text::Tokenizer& tokenizer() const { return tokenizer_; }
  int vocab_size() const { return tokenizer_.vocab_size(); }

  // The tokens of a text; of any bytes, where a token is one. Throws Error(invalid_argument) where a tokenizer's text
  // is not valid UTF-8, with the place.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special_tokens) const {
    if (!is_bytes_) return tokenizer_.encode(text, add_special_tokens);
    std::vector<std::int32_t> ids;
    ids.reserve(text.size());
    for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
    return ids;
  }

 private:
  Encoding(std::string json, bool is_bytes)
      : json_(std::move(json)), is_bytes_(is_bytes), tokenizer_(mamba::text::Tokenizer::from_text(json_)) {}

  std::string json_;
  bool is_bytes_;
  mamba::text::Tokenizer tokenizer_;
};

}  // namespace language
