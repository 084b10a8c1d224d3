// encode_lines TOKENIZER: a JSON string a line, and for each a line of JSON with the tokens with and without special
// ones, and the text of these, and of the first without special ones. For compare_tokenizers.py.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include <mamba/text/tokenizer.hpp>

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::cerr << argv[0] << " TOKENIZER < LINES\n";
    return 2;
  }
  const auto tokenizer = mamba::text::Tokenizer::from_file(argv[1]);
  for (std::string line; std::getline(std::cin, line);) {
    const auto text = nlohmann::json::parse(line).get<std::string>();
    const auto ids = tokenizer.encode(text), plain = tokenizer.encode(text, false);
    std::cout << nlohmann::json{ids, plain, tokenizer.decode(plain), tokenizer.decode(ids, true)} << '\n';
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
