// Unicode's normal forms (UAX #15) by utf8proc, as tokenizer files ask for them.
#pragma once

#include <utf8proc.h>

#include <cstdlib>
#include <memory>
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

  static std::string mapped(std::string_view text, Form form) {
    const bool composes = form == Form::nfc || form == Form::nfkc, maps = form == Form::nfkc || form == Form::nfkd;
    const auto options = static_cast<utf8proc_option_t>(
        UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (maps ? UTF8PROC_COMPAT : 0));
    utf8proc_uint8_t* made = nullptr;
    const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                               static_cast<utf8proc_ssize_t>(text.size()), &made, options);
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(made, &std::free);
    if (size < 0) fail(ErrorKind::invalid_argument, "the text cannot be normalised: ", utf8proc_errmsg(size));
    return {reinterpret_cast<const char*>(made), static_cast<std::size_t>(size)};
  }

  std::vector<Form> forms_;
};

}  // namespace mamba::text
