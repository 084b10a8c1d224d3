#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>
#include <filesystem>
#include <string>

#include "support/reference.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

// A file of this header, with the length in front and `data` bytes behind.
void write_raw(const std::filesystem::path& path, const std::string& header, std::size_t data, std::uint64_t claimed = 0) {
  std::uint64_t size = claimed ? claimed : header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  io::write_file(path, bytes + header + std::string(data, 'x'));
}

}  // namespace

TEST_CASE("a file written by the Python library reads, every dtype") {
  const auto file = support::reference("all_dtypes");
  CHECK(file.metadata().at("unicode") == "γ=1.0");
  CHECK(file.tensors().size() == 10);
  CHECK(file.tensor<float>("scalar").shape.empty());
  CHECK(file.tensor<float>("scalar").values.size() == 1);
  CHECK(file.tensor<float>("empty").shape == std::vector<std::int64_t>{0, 4});
  CHECK(file.tensor<float>("empty").values.empty());
  for (const auto& [name, info] : file.tensors()) {
    std::int64_t count = 1;
    for (const auto extent : info.shape) count *= extent;
    CHECK(file.tensor<double>(name).values.size() == static_cast<std::size_t>(count));
  }
}

TEST_CASE("16-bit floats widen exactly") {
  const auto folder = support::scratch("half");
  const std::uint16_t half[] = {0x3C00, 0xC000, 0x0001, 0x7C00, 0x8000, 0x3555}, brain[] = {0x3F80, 0xC000};
  const std::string header = R"({"h":{"dtype":"F16","shape":[6],"data_offsets":[0,12]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]}})";
  std::string bytes(8, '\0');
  const std::uint64_t size = header.size();
  std::memcpy(bytes.data(), &size, 8);
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(half), sizeof half).append(reinterpret_cast<const char*>(brain), sizeof brain);
  io::write_file(folder / "f", bytes);
  const auto file = io::SafetensorsFile::read(folder / "f");
  CHECK(file.tensor<float>("h").values == std::vector<float>{1, -2, 0x1p-24F, INFINITY, -0.0F, 0.333251953125F});
  CHECK(file.tensor<float>("b").values == std::vector<float>{1, -2});
}

TEST_CASE("tensors written read back, aligned and in order") {
  const auto folder = support::scratch("roundtrip");
  io::SafetensorsWriter writer;
  writer.add("z", HostTensor<float>{{2, 3}, {1, 2, 3, 4, 5, 6}});
  writer.add("a", HostTensor<double>{{}, {0.1}});
  writer.add("none", HostTensor<float>{{0}, {}});
  writer.write(folder / "f", {{"key", "\"value\"\n"}});
  const auto file = io::SafetensorsFile::read(folder / "f");
  CHECK(file.metadata().at("key") == "\"value\"\n");
  CHECK(file.tensor<float>("z").values == std::vector<float>{1, 2, 3, 4, 5, 6});
  CHECK(file.tensor<float>("z").shape == std::vector<std::int64_t>{2, 3});
  CHECK(file.tensor<double>("a").values == std::vector<double>{0.1});
  CHECK(file.tensor<float>("a").values == std::vector<float>{0.1F});
  const auto bytes = io::read_file(folder / "f");
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  CHECK(header % 8 == 0);
  CHECK_FALSE(std::filesystem::exists(folder / "f.tmp"));
}

TEST_CASE("every broken rule is refused by name") {
  const auto folder = support::scratch("broken");
  const auto refused = [&](const char* words) {
    INFO(words);
    try {
      io::SafetensorsFile::read(folder / "f");
      FAIL("was not refused");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::bad_file);
      CHECK_THAT(error.what(), ContainsSubstring(words));
    }
  };
  const auto check = [&](const std::string& header, std::size_t data, const char* words) {
    write_raw(folder / "f", header, data);
    refused(words);
  };
  refused("cannot open");
  io::write_file(folder / "f", "");
  refused("0 bytes");
  io::write_file(folder / "f", "1234567");
  refused("7 bytes");
  write_raw(folder / "f", "{}", 0, 3);
  refused("reaches beyond");
  write_raw(folder / "f", "{}", 0, 200'000'000);
  refused("beyond the limit");
  write_raw(folder / "f", "{}", 0, ~std::uint64_t{0});
  refused("beyond the limit");
  check(" {}", 0, "does not begin with {");
  check("{", 0, "JSON");
  check("[]", 0, "does not begin");
  check(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7, "not inside");
  check(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, "not inside");
  check(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9, "belong to no tensor");
  check(R"({"t":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, "need 12 bytes");
  check(R"({"t":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}})", 8, "unknown dtype");
  check(R"({"t":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, "negative");
  check(R"({"t":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8, "not an integer");
  check(R"({"t":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,8]}})", 8, "overflows");
  check(R"({"t":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 0, "overflows");
  check(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "not contiguous");
  check(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"u":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "not contiguous");
  check(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "twice");
  check(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 8, "not two");
  check(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}})", 4, "unknown key");
  check(R"({"t":{"dtype":"F32","shape":[1]}})", 4, "data_offsets");
  check(R"({"t":3})", 4, "expected an object");
  check(R"({"__metadata__":{"a":1}})", 0, "expected a string");
  write_raw(folder / "f", R"({"t":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}})", 1);
  CHECK_THROWS_WITH(io::SafetensorsFile::read(folder / "f").tensor<float>("t"), ContainsSubstring("F8_E5M2"));
  CHECK_THROWS_WITH(io::SafetensorsFile::read(folder / "f").tensor<float>("u"), ContainsSubstring("missing"));
}

TEST_CASE("a truncated file is refused at every length, a flipped header never crashes") {
  const auto folder = support::scratch("truncated");
  const auto whole = io::read_file(std::filesystem::path(MAMBA_TEST_DATA) / "all_dtypes.safetensors");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    io::write_file(folder / "f", std::string_view(whole.data(), size));
    CHECK_THROWS_AS(io::SafetensorsFile::read(folder / "f"), Error);
    size += size > 100 ? 13 : 0;
  }
  for (std::size_t at = 0; at < 700; ++at) {
    auto bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
    io::write_file(folder / "f", std::string_view(bytes.data(), bytes.size()));
    try {
      for (const auto file = io::SafetensorsFile::read(folder / "f"); const auto& [name, info] : file.tensors()) (void)file.tensor<float>(name);
    } catch (const Error&) {
    }
    at += 2;
  }
}
