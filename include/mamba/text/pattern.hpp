// A regular expression of a tokenizer file, by PCRE2. The files' are Oniguruma's: what both know under one name and
// take for different things is translated, or refused by its name.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include <mamba/core/error.hpp>
#include <mamba/io/json_text.hpp>

namespace mamba::text {

class Pattern {
 public:
  // Throws Error(bad_file) for one that cannot be compiled.
  explicit Pattern(std::string_view expression) {
    const std::string translated = translate(expression);
    int error = 0;
    std::size_t place = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_UTF_CHECK,
                              &error, &place, nullptr));
    if (!code_)
      fail(ErrorKind::bad_file, "the regular expression ", io::in_quotes(expression), " is refused: ", reason(error));
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);  // where the machine has none it is interpreted
  }
  // The text itself.
  static Pattern literal(std::string_view text) {
    std::string quoted;
    for (const char c : text) {
      if ((c & 0x80) == 0 && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z'))
        quoted += '\\';
      quoted += c;
    }
    return Pattern(quoted);
  }

  // f(piece, whether it is a match) for all of a text that is valid UTF-8, in its order, without empty ones.
  template <class F>
  void each_piece(std::string_view text, F&& f) const {
    const std::unique_ptr<pcre2_match_data, Free> data(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    if (!data) throw std::bad_alloc();
    const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const std::size_t* const found = pcre2_get_ovector_pointer(data.get());
    std::size_t taken = 0, from = 0;
    while (from < text.size()) {
      const auto match = [&](std::uint32_t options) {
        return pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK | options, data.get(), nullptr);
      };
      int matched = match(0);
      if (matched == PCRE2_ERROR_JIT_STACKLIMIT) matched = match(PCRE2_NO_JIT);  // which takes memory as it needs it
      if (matched == PCRE2_ERROR_NOMATCH) break;
      if (matched < 0) fail(ErrorKind::invalid_argument, "a regular expression fails in the text: ", reason(matched));
      const std::size_t begin = found[0], end = found[1];
      if (begin > taken) f(text.substr(taken, begin - taken), false);
      if (end > begin) f(text.substr(begin, end - begin), true);
      taken = end;
      from = end > begin ? end : end + character_size(text, end);  // an empty match cuts
    }
    if (taken < text.size()) f(text.substr(taken), false);
  }

 private:
  struct Free {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
  };

  static std::size_t character_size(std::string_view text, std::size_t at) {
    std::size_t size = 1;
    while (at + size < text.size() && (static_cast<unsigned char>(text[at + size]) & 0xC0) == 0x80) ++size;
    return size;
  }

  static std::string translate(std::string_view expression) {
    const auto refuse = [&](const char* what) {
      fail(ErrorKind::bad_file, "the regular expression ", io::in_quotes(expression), " has ", what,
           ", which is not supported");
    };
    const auto follows = [&](std::size_t i, std::string_view text) { return expression.substr(i).starts_with(text); };
    const std::string word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}", hexadecimal = "0-9A-Fa-f";
    // Below 256 Oniguruma has a table of its own, which a class does not ask: superscripts and fractions are of words.
    const std::string alone = word + "\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";
    // Of letters behind a backslash those that both take for one thing, beside those that are translated.
    constexpr std::string_view known = "dDpPAzZRtnrfaexb";
    std::string translated;
    bool in_class = false;
    for (std::size_t i = 0; i < expression.size(); ++i) {
      const char c = expression[i];
      if (c == '\\' && i + 1 < expression.size()) {
        const char escaped = expression[++i];
        const auto set = [&](const std::string& characters, bool without) {
          if (in_class && without) refuse("a class without a class in it");
          translated += in_class ? characters : (without ? "[^" : "[") + characters + "]";
        };
        if (escaped == 's') translated += "\\p{White_Space}";
        else if (escaped == 'S') translated += "\\P{White_Space}";
        else if (escaped == 'w' || escaped == 'W') set(in_class ? word : alone, escaped == 'W');
        else if (escaped == 'h' || escaped == 'H') set(hexadecimal, escaped == 'H');
        else if (escaped == 'v') translated += "\\x0B";
        else if (!in_class && (escaped == 'b' || escaped == 'B')) refuse("a word's boundary (\\b)");
        else if (is_letter(escaped) && known.find(escaped) == std::string_view::npos)
          refuse(("the escape \\" + std::string(1, escaped)).c_str());
        else (translated += '\\') += escaped;
        // A property's name, or a number.
        if (const std::size_t end = expression.find('}', i); follows(i + 1, "{") && end != std::string_view::npos) {
          const std::string_view braced = expression.substr(i + 1, end - i);
          const bool is_property = escaped == 'p' || escaped == 'P';
          translated += is_property ? property(braced) : std::string(braced);
          i = end;
        }
        continue;
      }
      if (in_class) {
        if (c == '[') refuse("a class within a class");
        if (follows(i, "&&")) refuse("an intersection of classes (&&)");
        if (c == ']') in_class = false;
      } else if (c == '[') {
        in_class = true;
        translated += c;
        // A bracket that comes first is one of the characters.
        if (follows(i + 1, "^")) translated += expression[++i];
        if (follows(i + 1, "]")) translated += expression[++i];
        continue;
      } else if (follows(i, "}+")) {
        refuse("a repetition of a repetition ({...}+)");
      } else if (follows(i, "{,")) {
        refuse("a repetition without its least number ({,n})");
      } else if (follows(i, "}?") && expression.find(',', expression.rfind('{', i)) >= i) {
        refuse("a repetition that may be left out ({n}?)");
      } else if (follows(i, "(?")) {
        const std::string_view options = expression.substr(i + 2, expression.find_first_of(":)", i) - i - 2);
        if (std::all_of(options.begin(), options.end(), [](char x) { return is_letter(x) || x == '-'; }) &&
            options.find_first_not_of("i-") != std::string_view::npos)
          refuse("an option of its own meaning ((?m), (?x))");
      }
      translated += c;
    }
    return translated;
  }

  static bool is_letter(char c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

  // A property's name in its braces. By a script's name PCRE2 means the characters that are used with it, too.
  static std::string property(std::string_view braced) {
    const std::string inverts = braced.starts_with("{^") ? "^" : "";
    const std::string of_script = "{" + inverts + "sc:" + std::string(braced.substr(1 + inverts.size()));
    const std::string expression = "\\p" + of_script;
    int error = 0;
    std::size_t place = 0;
    const std::unique_ptr<pcre2_code, Free> found(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()),
                                                                expression.size(), PCRE2_UTF, &error, &place, nullptr));
    return found ? of_script : std::string(braced);
  }

  static std::string reason(int error) {
    unsigned char text[256];
    return pcre2_get_error_message(error, text, sizeof text) < 0 ? "error " + std::to_string(error)
                                                                 : reinterpret_cast<const char*>(text);
  }

  std::unique_ptr<pcre2_code, Free> code_;
};

}  // namespace mamba::text
