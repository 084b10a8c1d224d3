// Bytes as a text: what is valid UTF-8 comes back, whole and token by token; bytes of tokens become valid UTF-8.
#include <string>

#include <mamba/text/tokenizer.hpp>

#include "target.hpp"

namespace {

using mamba::text::Tokenizer;

void check(const Tokenizer& tokenizer, const std::string& text, bool is_normal) {
  const auto ids = tokenizer.encode(text);
  const std::string back = tokenizer.decode(ids, true);
  mamba::text::TokenStream stream(tokenizer, true);
  std::string streamed;
  for (const std::int32_t id : ids) {
    const std::string piece = stream.push(id);
    mamba::text::check_utf8(piece);
    streamed += piece;
  }
  fuzz::must(streamed + stream.finish() == back, "a stream is the whole");
  const bool has_special = text.find("<|") != std::string::npos;
  fuzz::must(!is_normal || has_special || back == text, "a text comes back");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const Tokenizer neox = Tokenizer::from_file(MAMBA_TEST_DATA "/tokenizer_neox_tiny"),
                         llama3 = Tokenizer::from_file(MAMBA_TEST_DATA "/tokenizer_llama3_tiny");
  const std::string text(reinterpret_cast<const char*>(bytes), size);
  std::string repaired;
  mamba::text::append_decoded(repaired, text, true);
  mamba::text::check_utf8(repaired);
  bool is_valid = true;
  try {
    mamba::text::check_utf8(text);
  } catch (const mamba::Error&) {
    is_valid = false;
  }
  fuzz::must(is_valid == (repaired == text), "what is valid stays, and what is not does not");
  check(neox, repaired, false);
  check(llama3, repaired, true);
  return 0;
}
