#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#if defined(__unix__)
#include <sys/stat.h>
#endif

#include <mamba/io/mapped_file.hpp>
#include <mamba/io/safetensors.hpp>

#include "support/scratch.hpp"

namespace fs = std::filesystem;
using namespace mamba;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;

namespace {

// A file of one tensor "t" of F32, whose values begin at an odd byte.
void write_odd(const fs::path& path, const std::vector<float>& values) {
  std::string header = R"({"t":{"dtype":"F32","shape":[)" + std::to_string(values.size()) + R"(],"data_offsets":[0,)" +
                       std::to_string(4 * values.size()) + "]}}";
  if (header.size() % 2 == 0) header += ' ';
  const std::uint64_t size = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(values.data()), 4 * values.size());
  io::write_file(path, bytes);
}

// Beyond a page and several pieces that are looked at on their own.
std::vector<float> many() {
  std::vector<float> values(600'001);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) * 0.5F;
  return values;
}

}  // namespace

TEST_CASE("a mapped file's bytes are the file's, and forgotten ones come back") {
  const fs::path folder = support::scratch("mapped");
  std::string text(100'000, 'a');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * i % 251);
  io::write_file(folder / "f", text);
  const io::MappedFile file(folder / "f");
  CHECK(file.bytes() == text);
  file.forget(0, text.size());
  file.forget(5, 10);
  file.forget(4097, 4098);
  CHECK(file.bytes() == text);
  file.check_unchanged();
  io::write_file(folder / "empty", "");
  CHECK(io::MappedFile(folder / "empty").bytes().empty());
  CHECK(io::MappedFile(std::vector<char>{'a', 'b'}).bytes() == "ab");
}

TEST_CASE("only files are mapped: what read_file refuses is refused in its words") {
  const fs::path folder = support::scratch("unmapped");
  const auto refused = [](const fs::path& path, const char* why) {
    CHECK_THROWS_WITH(io::MappedFile(path), StartsWith("cannot ") && ContainsSubstring(why));
    CHECK_THROWS_WITH(io::SafetensorsFile::read(path), ContainsSubstring(why));
  };
  refused(folder, "it is a folder");
  refused(folder / "none", "cannot open");
  refused("", "its path is empty");
#if defined(__unix__)
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  refused(folder / "pipe", "no regular file but a pipe");
  refused("/dev/null", "no regular file but a pipe");
#endif
}

TEST_CASE("values lie anywhere in a file, and are read from any element on") {
  const fs::path path = support::scratch("odd") / "f";
  const std::vector<float> values = many();
  write_odd(path, values);
  const auto file = io::SafetensorsFile::read(path);
  CHECK(file.tensor<float>("t").values == values);
  CHECK(file.tensor<double>("t").values == std::vector<double>(values.begin(), values.end()));
  const io::TensorView tensor = file.view("t");
  std::vector<double> some(3);
  tensor.read(599'998, 3, some.data());
  CHECK(some == std::vector<double>{299'999, 299'999.5, 300'000});
  tensor.read<double>(600'001, 0, nullptr);
  CHECK(tensor.always_converts_to<double>());
  CHECK_FALSE(tensor.always_converts_to<int>());
  const auto copy = file;
  CHECK(copy.view("t").name() == "t");
  CHECK_THROWS_WITH(copy.view("u"), ContainsSubstring("\"u\" is missing"));
}

TEST_CASE("a file that is replaced stays what it was for who has opened it") {
  const fs::path path = support::scratch("replaced") / "f";
  write_odd(path, many());
  const auto file = io::SafetensorsFile::read(path);
  io::write_file(path, "something else");
  CHECK(file.tensor<float>("t").values == many());
  fs::remove(path);
  CHECK(file.tensor<float>("t").values == many());
}

#if defined(__unix__)
TEST_CASE("a file that is written to in place is an error, and no signal, where it is noticed") {
  const fs::path path = support::scratch("changed") / "f";
  const auto refused = [&](auto&& change) {
    write_odd(path, many());
    const auto file = io::SafetensorsFile::read(path);
    change();
    CHECK_THROWS_WITH(file.tensor<float>("t"), ContainsSubstring("was changed while it was read"));
  };
  refused([&] { fs::resize_file(path, 1000); });
  refused([&] { fs::resize_file(path, 0); });
  refused([&] { std::ofstream(path, std::ios::app) << "more"; });
  refused([&] {
    fs::last_write_time(path, fs::last_write_time(path) - std::chrono::seconds(1));  // a clock's grain apart
    std::ofstream(path, std::ios::in | std::ios::out) << "other";
  });
}
#endif
