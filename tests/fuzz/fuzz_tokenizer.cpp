// Bytes as a tokenizer.json: what is read encodes and decodes.
#include <string>

#include <mamba/text/tokenizer.hpp>

#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(bytes), size);
  (void)fuzz::accepted([&] {
    const auto tokenizer = mamba::text::Tokenizer::from_text(file);
    for (const std::string text : {"", "a b\n\xC3\xA9 12's  <|endoftext|>", "aaaabbbb"}) {
      std::vector<std::int32_t> ids;
      // A pattern of the file's may ask for more than the text is searched for.
      try {
        ids = tokenizer.encode(text);
      } catch (const mamba::Error& error) {
        fuzz::must(error.kind() == mamba::ErrorKind::invalid_argument, "a text is refused as an argument");
        continue;
      }
      mamba::text::check_utf8(tokenizer.decode(ids));
    }
  });
  return 0;
}
