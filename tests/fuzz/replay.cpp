// Runs a target, with any compiler, on the files of a corpus and on mutations of each: replay N FOLDER... for N
// mutations of a file. The mutations are a function of N and the files alone.
#include <algorithm>
#include <charconv>
#include <fstream>
#include <random>
#include <string_view>

#include "target.hpp"

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

class Mutations {
 public:
  explicit Mutations(std::uint64_t seed) : words_(seed) {}

  // Some changes of bytes, numbers and parts; where the file has a header's length, one that fits in three of four
  // cases.
  Bytes of(const Bytes& original) {
    Bytes bytes = original;
    std::uint64_t header = 0;
    if (bytes.size() >= 8) std::memcpy(&header, bytes.data(), 8);
    const bool has_header = bytes.size() >= 8 && header <= bytes.size() - 8;
    const std::size_t behind = has_header ? bytes.size() - 8 - static_cast<std::size_t>(header) : 0;
    for (std::size_t n = 1 + below(3); n > 0; --n) change(bytes, has_header && below(4) != 0 ? 8 : 0, behind);
    if (has_header && bytes.size() >= 8 + behind && below(4) != 0) {
      header = bytes.size() - 8 - behind;
      std::memcpy(bytes.data(), &header, 8);
    }
    return bytes;
  }

 private:
  std::size_t below(std::size_t n) { return n == 0 ? 0 : static_cast<std::size_t>(words_() % n); }

  // In the bytes from `first` on, in front of the last `behind` mostly.
  void change(Bytes& bytes, std::size_t first, std::size_t behind) {
    static constexpr std::string_view words[] = {"0",
                                                 "-0",
                                                 "-1",
                                                 "1e5",
                                                 "1.5",
                                                 "4294967296",
                                                 "9223372036854775807",
                                                 "18446744073709551615",
                                                 "1e999",
                                                 "null",
                                                 "[]",
                                                 "{}",
                                                 "\"",
                                                 ",",
                                                 "]",
                                                 "}",
                                                 "\"F64\"",
                                                 "\"I64\"",
                                                 "\"F32\"",
                                                 "\"BF16\"",
                                                 "\"F4\"",
                                                 "\"__metadata__\":null,",
                                                 " ",
                                                 "\\u0000",
                                                 "\xff"};
    const std::size_t end = bytes.size() > behind && below(8) != 0 ? bytes.size() - behind : bytes.size();
    if (first >= end) return;
    const auto at = static_cast<std::ptrdiff_t>(first + below(end - first));
    const std::size_t left = end - static_cast<std::size_t>(at);
    switch (below(6)) {
      case 0:
        bytes[static_cast<std::size_t>(at)] ^= static_cast<std::uint8_t>(1U << below(8));
        break;
      case 1:
        bytes[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(below(256));
        break;
      case 2:
        bytes.erase(bytes.begin() + at,
                    bytes.begin() + at + static_cast<std::ptrdiff_t>(1 + below((std::min<std::size_t>)(left, 40))));
        break;
      case 3: {  // twice
        const Bytes part(
            bytes.begin() + at,
            bytes.begin() + at + static_cast<std::ptrdiff_t>(1 + below((std::min<std::size_t>)(left, 200))));
        bytes.insert(bytes.begin() + at, part.begin(), part.end());
        break;
      }
      case 4: {
        const std::string_view word = words[below(std::size(words))];
        bytes.insert(bytes.begin() + at, word.begin(), word.end());
        break;
      }
      default: {  // in the place of a number
        const auto is_digit = [](std::uint8_t c) { return c >= '0' && c <= '9'; };
        const auto from = std::find_if(bytes.begin() + at, bytes.end(), is_digit);
        const auto place = bytes.erase(from, std::find_if_not(from, bytes.end(), is_digit));
        const std::string_view word = words[below(std::size(words))];
        bytes.insert(place, word.begin(), word.end());
      }
    }
  }

  std::mt19937_64 words_;
};

}  // namespace

int main(int argc, char** argv) {
  std::size_t count = 0;
  if (argc < 3 || std::from_chars(argv[1], argv[1] + std::strlen(argv[1]), count).ec != std::errc{}) {
    std::fprintf(stderr, "%s N FOLDER...\n", argv[0]);
    return 2;
  }
  std::vector<std::filesystem::path> files;
  for (int i = 2; i < argc; ++i)
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  const fuzz::InputFile last{std::filesystem::path(argv[0]).filename().string() +
                             ".last-input"};  // what a crash leaves
  std::uint64_t seed = 0;
  for (const auto& path : files) {
    const Bytes original = read(path);
    Mutations mutations(++seed);
    LLVMFuzzerTestOneInput(original.data(), original.size());
    for (std::size_t i = 0; i < count; ++i) {
      const Bytes bytes = mutations.of(original);
      (void)last.holding(bytes.data(), bytes.size());
      LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
  }
  std::printf("%zu files, %zu mutations of each\n", files.size(), count);
  return files.empty() ? 1 : 0;
}
