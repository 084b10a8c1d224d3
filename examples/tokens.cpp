// A text's tokens: tokens TOKENIZER TEXT, where TOKENIZER is a tokenizer.json or a folder that has one.
#include <cstdio>

#include <mamba/text/tokenizer.hpp>

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "%s TOKENIZER TEXT\n", argv[0]);
    return 2;
  }
  const auto tokenizer = mamba::text::Tokenizer::from_file(argv[1]);
  const auto ids = tokenizer.encode(argv[2]);

  // The way back, a token at a time, as a program prints what a model says.
  mamba::text::TokenStream stream(tokenizer);
  for (const std::int32_t id : ids) std::printf("%6d  %s\n", id, stream.push(id).c_str());
  std::printf("        %s\n%zu of %d tokens\n", stream.finish().c_str(), ids.size(), tokenizer.vocab_size());
  return tokenizer.encode(tokenizer.decode(ids), false).empty() ? 1 : 0;
} catch (const mamba::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 3;
}
