// A regular expression of a tokenizer file, by PCRE2. The files' are Oniguruma's; of what both know, \s differs: it is
// Unicode's White_Space there.
#pragma once

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <cstddef>
#include <memory>
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
                              PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &error, &place, nullptr));
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
      const int matched = pcre2_match(code_.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK, data.get(), nullptr);
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
    std::string translated;
    for (std::size_t i = 0; i < expression.size(); ++i) {
      if (expression[i] != '\\' || i + 1 == expression.size()) {
        translated += expression[i];
        continue;
      }
      const char escaped = expression[++i];
      if (escaped == 's') translated += "\\p{White_Space}";
      else if (escaped == 'S') translated += "\\P{White_Space}";
      else (translated += '\\') += escaped;
    }
    return translated;
  }

  static std::string reason(int error) {
    unsigned char text[256];
    return pcre2_get_error_message(error, text, sizeof text) < 0 ? "error " + std::to_string(error)
                                                                 : reinterpret_cast<const char*>(text);
  }

  std::unique_ptr<pcre2_code, Free> code_;
};

}  // namespace mamba::text
