// Tokens that are found in a text before anything else is done to it, as Hugging Face's tokenizers library finds them:
// the longest at the first place, with the white space that they ask for.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/json.hpp>
#include <mamba/text/utf8.hpp>

namespace mamba::text {

struct AddedToken {
  std::int32_t id = 0;
  std::string content;
  bool single_word = false, left_strip = false, right_strip = false, normalized = false, special = false;

  explicit AddedToken(const io::Json& file)
      : id(file.at("id").integer<std::int32_t>()),
        content(file.at("content").string()),
        single_word(says(file, "single_word")),
        left_strip(says(file, "lstrip")),
        right_strip(says(file, "rstrip")),
        special(says(file, "special")) {
    const io::Json* given = file.find("normalized");
    normalized = given ? given->boolean() : !special;
    if (id < 0)
      fail(ErrorKind::bad_file, "the tokenizer's added token ", io::in_quotes(content), " has the number ", id);
  }

 private:
  static bool says(const io::Json& file, const char* what) {
    const io::Json* given = file.find(what);
    return given && given->boolean();
  }
};

// Finds some of them in texts.
class AddedTokenFinder {
 public:
  // content: as it stands in texts.
  void add(const AddedToken& token, std::string_view content) {
    if (content.empty()) return;
    std::size_t node = 0;
    for (const char c : content) {
      const auto next = static_cast<std::int32_t>(nodes_.size());
      auto& child = nodes_[node].children[c];
      if (child == 0) {
        child = next;
        node = static_cast<std::size_t>(next);
        nodes_.emplace_back();
      } else {
        node = static_cast<std::size_t>(child);
      }
    }
    if (nodes_[node].token < 0) nodes_[node].token = static_cast<std::int32_t>(tokens_.size());
    tokens_.push_back(token);
    begins_[static_cast<unsigned char>(content.front())] = true;
  }

  // text(piece) and token(id) for all of a text, in its order; no piece is empty.
  template <class OfText, class OfToken>
  void each_piece(std::string_view text, OfText&& of_text, OfToken&& of_token) const {
    std::size_t taken = 0, at = 0;
    const auto begins = [&](char c) { return begins_[static_cast<unsigned char>(c)]; };
    while ((at = static_cast<std::size_t>(
                std::find_if(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), begins) - text.begin())) <
           text.size()) {
      const auto [token, size] = longest(text.substr(at));
      if (!token) {
        ++at;
        continue;
      }
      std::size_t begin = at, end = at + size;
      at = end;
      if (token->single_word && (ends_word(text.substr(0, begin)) || begins_word(text.substr(end)))) continue;
      if (token->left_strip)
        while (begin > taken) {
          const Utf8Character before = last_character(text.substr(0, begin));
          if (!is_white_space(before.code)) break;
          begin -= before.size;
        }
      if (token->right_strip)
        while (end < text.size()) {
          const Utf8Character behind = first_character(text.substr(end));
          if (!is_white_space(behind.code)) break;
          end += behind.size;
        }
      if (begin > taken) of_text(text.substr(taken, begin - taken));
      of_token(token->id);
      taken = end;  // what was stripped may hold the next one
    }
    if (taken < text.size()) of_text(text.substr(taken));
  }

 private:
  struct Node {
    std::map<char, std::int32_t> children;
    std::int32_t token = -1;
  };
  struct Found {
    const AddedToken* token;
    std::size_t size;
  };

  Found longest(std::string_view text) const {
    Found found{nullptr, 0};
    std::size_t node = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const auto child = nodes_[node].children.find(text[i]);
      if (child == nodes_[node].children.end()) break;
      node = static_cast<std::size_t>(child->second);
      if (nodes_[node].token >= 0) found = {&tokens_[static_cast<std::size_t>(nodes_[node].token)], i + 1};
    }
    return found;
  }

  // \w of Rust's regular expressions (UTS #18, annex C): what is alphabetic, marks, digits, connecting punctuation,
  // joiners. Letters within circles and squares are symbols that are alphabetic.
  static bool is_of_word(char32_t code) {
    const auto within = [&](char32_t first, char32_t last) { return code >= first && code <= last; };
    if (within(0x200C, 0x200D) || within(0x24B6, 0x24E9) || within(0x1F130, 0x1F149) || within(0x1F150, 0x1F169) ||
        within(0x1F170, 0x1F189))
      return true;
    switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
      case UTF8PROC_CATEGORY_LU:
      case UTF8PROC_CATEGORY_LL:
      case UTF8PROC_CATEGORY_LT:
      case UTF8PROC_CATEGORY_LM:
      case UTF8PROC_CATEGORY_LO:
      case UTF8PROC_CATEGORY_MN:
      case UTF8PROC_CATEGORY_MC:
      case UTF8PROC_CATEGORY_ME:
      case UTF8PROC_CATEGORY_ND:
      case UTF8PROC_CATEGORY_NL:
      case UTF8PROC_CATEGORY_PC:
        return true;
      default:
        return false;
    }
  }
  static bool ends_word(std::string_view before) { return !before.empty() && is_of_word(last_character(before).code); }
  static bool begins_word(std::string_view behind) {
    return !behind.empty() && is_of_word(first_character(behind).code);
  }

  std::vector<Node> nodes_{1};
  std::vector<AddedToken> tokens_;
  std::array<bool, 256> begins_{};
};

}  // namespace mamba::text
