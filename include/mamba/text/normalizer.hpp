// Unicode's normal forms (UAX #15) by utf8proc, as tokenizer files ask for them.
#pragma once

#include <utf8proc.h>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/io/json.hpp>
#include <mamba/text/utf8.hpp>

namespace mamba::text {

class Normalizer {
 public:
  Normalizer() = default;  // none
  // What a file's "normalizer" asks for. Throws Error(bad_file) for what is not there, by its name.
  explicit Normalizer(const io::Json& file) { add(file); }

  bool changes_nothing() const { return forms_.empty(); }

  // text: valid UTF-8. Throws Error(invalid_argument) where it is too long.
  std::string operator()(std::string_view text) const {
    std::string normal(text);
    for (const Form form : forms_)
      if (!is_normal(normal, form)) normal = mapped(normal, form);
    return normal;
  }

 private:
  enum class Form { nfc, nfd, nfkc, nfkd };

  void add(const io::Json& file) {
    if (file.is_null()) return;
    const std::string& type = file.at("type").string();
    if (type == "NFC") forms_.push_back(Form::nfc);
    else if (type == "NFD") forms_.push_back(Form::nfd);
    else if (type == "NFKC") forms_.push_back(Form::nfkc);
    else if (type == "NFKD") forms_.push_back(Form::nfkd);
    else if (type == "Sequence")
      for (const io::Json& step : file.at("normalizers").elements()) add(step);
    else
      fail(ErrorKind::bad_file, "the tokenizer's normalizer ", io::in_quotes(type),
           " is not supported (NFC, NFD, NFKC, NFKD are)");
  }

  // No character below U+0300 changes by composition, none below U+0080 at all.
  static bool is_normal(std::string_view text, Form form) {
    const unsigned char least = form == Form::nfc ? 0xCC : 0x80;  // the first byte of U+0300
    return std::none_of(text.begin(), text.end(), [&](char c) { return static_cast<unsigned char>(c) >= least; }) ||
           text.empty();
  }

  // By utf8proc's parts: its whole sorts marks by insertion, which takes a run of them quadratic time.
  static std::string mapped(std::string_view text, Form form) {
    const bool composes = form == Form::nfc || form == Form::nfkc, maps = form == Form::nfkc || form == Form::nfkd;
    const auto options = static_cast<utf8proc_option_t>(
        UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (maps ? UTF8PROC_COMPAT : 0));
    std::vector<utf8proc_int32_t> codes;
    codes.reserve(text.size());
    while (!text.empty()) {
      const Utf8Character character = first_character(text);
      text.remove_prefix(character.size);
      utf8proc_int32_t parts[32];  // the longest decomposition is of 18
      int boundary = 0;
      const auto count =
          utf8proc_decompose_char(static_cast<utf8proc_int32_t>(character.code), parts, 32, options, &boundary);
      if (count < 0 || count > 32)
        fail(ErrorKind::invalid_argument, "the text cannot be normalised: ", utf8proc_errmsg(count));
      codes.insert(codes.end(), parts, parts + count);
    }
    const auto mark = [](utf8proc_int32_t code) { return utf8proc_get_property(code)->combining_class; };
    for (auto begin = codes.begin(); begin != codes.end();) {
      begin = std::find_if(begin, codes.end(), [&](auto code) { return mark(code) != 0; });
      const auto end = std::find_if(begin, codes.end(), [&](auto code) { return mark(code) == 0; });
      std::stable_sort(begin, end, [&](auto x, auto y) { return mark(x) < mark(y); });
      begin = end;
    }
    const auto size = composes
                          ? utf8proc_normalize_utf32(codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), options)
                          : static_cast<utf8proc_ssize_t>(codes.size());
    if (size < 0) fail(ErrorKind::invalid_argument, "the text cannot be normalised: ", utf8proc_errmsg(size));
    std::string normal;
    for (utf8proc_ssize_t i = 0; i < size; ++i)
      append_utf8(normal, static_cast<char32_t>(codes[static_cast<std::size_t>(i)]));
    return normal;
  }

  std::vector<Form> forms_;
};

}  // namespace mamba::text
