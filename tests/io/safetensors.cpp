#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <string>

#include "support/processor_seconds.hpp"
#include "support/reference.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

// A file of this header, with the length in front and `data` bytes behind.
void write_raw(const std::filesystem::path& path, const std::string& header, std::size_t data,
               std::uint64_t claimed = 0) {
  std::uint64_t size = claimed ? claimed : header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &size, 8);
  io::write_file(path, bytes + header + std::string(data, 'x'));
}

// The same in memory.
std::vector<char> in_memory(const std::string& header, std::string_view data) {
  const std::uint64_t size = header.size();
  std::vector<char> bytes(8 + header.size() + data.size());
  std::memcpy(bytes.data(), &size, 8);
  std::copy(header.begin(), header.end(), bytes.begin() + 8);
  std::copy(data.begin(), data.end(), bytes.begin() + 8 + static_cast<std::ptrdiff_t>(header.size()));
  return bytes;
}

io::SafetensorsFile parsed(const std::string& header, std::string_view data = "") {
  return io::SafetensorsFile::parse(in_memory(header, data), "some/file");
}

// One tensor "t" of these values.
template <class Stored>
io::SafetensorsFile holding(const std::vector<Stored>& values) {
  const std::string_view data(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(Stored));
  return parsed("{\"t\":{\"dtype\":\"" + io::dtype_of<Stored>() + "\",\"shape\":[" + std::to_string(values.size()) +
                    "],\"data_offsets\":[0," + std::to_string(data.size()) + "]}}",
                data);
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
  const std::string header =
      R"({"h":{"dtype":"F16","shape":[6],"data_offsets":[0,12]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]}})";
  std::string bytes(8, '\0');
  const std::uint64_t size = header.size();
  std::memcpy(bytes.data(), &size, 8);
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(half), sizeof half)
      .append(reinterpret_cast<const char*>(brain), sizeof brain);
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
  check("  ", 0, "does not begin with {");
  check("\xEF\xBB\xBF{}", 0, "does not begin with {");
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
  check(
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"u":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
      4, "not contiguous");
  check(
      R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
      8, "twice");
  check(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 8, "not two");
  check(R"({"t":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "twice");
  check(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1,"extra":1}})", 4, "twice");
  check(R"({"__metadata__":{"a":"1","\u0061":"1"}})", 0, "twice");
  check(R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":}})", 4, "JSON, byte");
  check(R"({"t":{"shape":[1],"data_offsets":[0,4]}})", 4, "lacks its dtype");
  check(R"({"t":{"dtype":"F32","data_offsets":[0,4]}})", 4, "lacks its shape");
  for (const char* size : {"-0", "1.0", "1e0", "9223372036854775808", "\"1\"", "null", "[1]"}) {
    check("{\"t\":{\"dtype\":\"F32\",\"shape\":[" + std::string(size) + "],\"data_offsets\":[0,4]}}", 4, "dimension");
    check("{\"t\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[" + std::string(size) + ",0]}}", 4, "offset");
  }
  std::string ones = "1";
  for (int i = 1; i < 65; ++i) ones += ",1";
  check(R"({"t":{"dtype":"U8","shape":[)" + ones + R"(],"data_offsets":[0,1]}})", 1, "more than 64 dimensions");
  check(R"({"t":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1, "12 bits, which are no whole bytes");
  check(R"({"t":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,4]}})", 4, "need 3 bytes");
  check(R"({"t":{"dtype":"F32","shape":[1]}})", 4, "data_offsets");
  check(R"({"t":3})", 4, "expected an object");
  check(R"({"__metadata__":{"a":1}})", 0, "expected a string");
  write_raw(folder / "f", R"({"t":{"dtype":"F8_E5M2","shape":[1],"data_offsets":[0,1]}})", 1);
  CHECK_THROWS_WITH(io::SafetensorsFile::read(folder / "f").tensor<float>("t"), ContainsSubstring("F8_E5M2"));
  CHECK_THROWS_WITH(io::SafetensorsFile::read(folder / "f").tensor<float>("u"), ContainsSubstring("missing"));
}

TEST_CASE("what the format allows, Python's library reads and nobody asks for is no reason to refuse a file") {
  const std::string tensor = R"("t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  for (const std::string& header :
       {"{" + tensor + "}", " \t\r\n{ " + tensor + " } ", R"({"__metadata__":null,)" + tensor + "}",
        R"({"__metadata__":{},)" + tensor + "}",
        std::string(R"({"t":{"data_offsets":[0,1],"more":{"a":[1,null,{"b":"c"}]},"shape":[1],"dtype":"U8"}})")}) {
    INFO(header);
    CHECK(parsed(header, "a").tensor<int>("t").values == std::vector<int>{97});
  }
  struct Foreign {
    const char* dtype;
    int bytes;  // of 8 elements
  };
  for (const auto [dtype, bytes] : {Foreign{"F4", 4},
                                    {"F6_E2M3", 6},
                                    {"F6_E3M2", 6},
                                    {"F8_E5M2", 8},
                                    {"F8_E4M3", 8},
                                    {"F8_E8M0", 8},
                                    {"F8_E4M3FNUZ", 8},
                                    {"F8_E5M2FNUZ", 8},
                                    {"C64", 64}}) {
    INFO(dtype);
    const std::string end = std::to_string(1 + bytes);
    const auto file =
        parsed("{" + tensor + ",\"u\":{\"dtype\":\"" + dtype + "\",\"shape\":[2,4],\"data_offsets\":[1," + end + "]}}",
               std::string(static_cast<std::size_t>(1 + bytes), 'a'));
    CHECK(file.tensors().at("u").shape == std::vector<std::int64_t>{2, 4});
    CHECK(file.tensor<float>("t").values == std::vector<float>{97});
    CHECK_THROWS_WITH(file.tensor<float>("u"), ContainsSubstring("\"u\"") && ContainsSubstring(dtype));
  }
}

TEST_CASE("a number that the program's type cannot hold is refused with its place and value") {
  const auto refused = [](const auto& file, auto type, const char* element, const char* value) {
    INFO(value);
    CHECK_THROWS_WITH(file.template tensor<decltype(type)>("t"),
                      ContainsSubstring("some/file: ") && ContainsSubstring("\"t\"") && ContainsSubstring(element) &&
                          ContainsSubstring(std::string(" is ") + value + ","));
  };
  for (const float x : {NAN, INFINITY, -INFINITY, 1e30F, 0.5F, 2147483648.0F, -2147483904.0F})
    refused(holding<float>({1, x}), std::int32_t{}, "element 1", x != x ? "nan" : shortest_text(x).c_str());
  refused(holding<double>({2147483648.0}), std::int32_t{}, "element 0", "2147483648");
  refused(holding<double>({9223372036854775808.0}), std::int64_t{}, "element 0", "9223372036854775808");
  refused(holding<double>({-1}), std::uint32_t{}, "element 0", "-1");
  refused(holding<std::int64_t>({0, 0, 4294967296}), std::int32_t{}, "element 2", "4294967296");
  refused(holding<std::int64_t>({-1}), std::uint64_t{}, "element 0", "-1");
  refused(holding<std::uint64_t>({18446744073709551615U}), std::int64_t{}, "element 0", "18446744073709551615");
  refused(holding<std::int32_t>({300}), std::int8_t{}, "element 0", "300");
  refused(holding<double>({1e39}), float{}, "element 0", "1e+39");
  refused(holding<double>({-1e39}), float{}, "element 0", "-1e+39");

  CHECK(holding<float>({-2147483648.0F, -0.0F, 16777216}).tensor<std::int32_t>("t").values ==
        std::vector<std::int32_t>{-2147483648, 0, 16777216});
  CHECK(holding<double>({0.1, -1e-60}).tensor<float>("t").values == std::vector<float>{0.1F, 0});
  CHECK(holding<double>({INFINITY}).tensor<float>("t").values == std::vector<float>{INFINITY});
  CHECK(std::isnan(holding<double>({NAN}).tensor<float>("t").values[0]));
  CHECK(holding<std::int64_t>({9007199254740993}).tensor<double>("t").values ==
        std::vector<double>{9007199254740992.0});
  CHECK(holding<std::uint8_t>({255}).tensor<std::uint64_t>("t").values == std::vector<std::uint64_t>{255});
}

TEST_CASE("every message about a file begins with its path") {
  const auto file = parsed(R"({"t":{"dtype":"C64","shape":[0],"data_offsets":[0,0]}})");
  CHECK(file.path() == "some/file");
  CHECK_THROWS_WITH(file.tensor<float>("t"), ContainsSubstring("some/file: "));
  CHECK_THROWS_WITH(file.tensor<float>("u"), ContainsSubstring("some/file: the tensor \"u\" is missing"));
  CHECK_THROWS_WITH(file.refuse("has ", 3, " things"), ContainsSubstring("some/file: has 3 things"));
  CHECK_THROWS_WITH(parsed("{"), ContainsSubstring("some/file is not a valid safetensors file: "));
  const auto folder = support::scratch("named");
  io::write_file(folder / "f", "12345678");
  CHECK_THROWS_WITH(io::SafetensorsFile::read(folder / "f"), ContainsSubstring((folder / "f").string()));
  CHECK_THROWS_WITH(io::SafetensorsFile::read(folder / "none"), ContainsSubstring((folder / "none").string()));
  CHECK(support::reference("all_dtypes").path().filename() == "all_dtypes.safetensors");
}

// The square of their number would take minutes.
TEST_CASE("a header's cost grows with its length") {
  const auto seconds = [](const std::string& header) {
    const auto bytes = in_memory(header, "");
    const double begin = support::processor_seconds();
    (void)io::SafetensorsFile::parse(bytes);
    return support::processor_seconds() - begin;
  };
  const auto tensors = [](int n) {
    std::string header = "{";
    for (int i = 0; i < n; ++i)
      header += (i ? ",\"" : "\"") + std::to_string(i) + R"(":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
    return header + "}";
  };
  const auto keys = [](int n) {
    std::string header = R"({"__metadata__":{)";
    for (int i = 0; i < n; ++i) header += (i ? ",\"" : "\"") + std::to_string(i) + "\":\"\"";
    return header + "}}";
  };
  const double small = seconds(tensors(50000)), large = seconds(tensors(200000));
  INFO(small << " s, " << large << " s");
  CHECK(large < 10 * small + 0.2);
  const double few = seconds(keys(50000)), many = seconds(keys(200000));
  INFO(few << " s, " << many << " s");
  CHECK(many < 10 * few + 0.2);
}

TEST_CASE("what is not a tensor is not written") {
  io::SafetensorsWriter writer;
  CHECK_THROWS_AS(writer.add("t", HostTensor<float>{{3}, {1, 2}}), Error);
  CHECK_THROWS_AS(writer.add("t", HostTensor<float>{{-1}, {}}), Error);
  CHECK_THROWS_AS(writer.add("t", HostTensor<float>{{std::int64_t{1} << 40, std::int64_t{1} << 40}, {}}), Error);
  const auto folder = support::scratch("written");
  writer.add("u", HostTensor<std::uint32_t>{{1}, {4294967295U}});
  writer.add("b", HostTensor<std::uint8_t>{{2}, {1, 255}});
  writer.write(folder / "f", {{"bytes", "\xff\x01"}});
  const auto file = io::SafetensorsFile::read(folder / "f");
  CHECK(file.tensor<std::int64_t>("u").values == std::vector<std::int64_t>{4294967295});
  CHECK(file.tensor<int>("b").values == std::vector<int>{1, 255});
  CHECK(file.metadata().at("bytes") == "\xEF\xBF\xBD\x01");
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
      for (const auto file = io::SafetensorsFile::read(folder / "f"); const auto& [name, info] : file.tensors())
        (void)file.tensor<float>(name);
    } catch (const Error&) {
    }
    at += 2;
  }
}

TEST_CASE("nothing is written that cannot be read") {
  io::SafetensorsWriter writer;
  const HostTensor<float> one{{1}, {1}};
  writer.add("a", one);
  CHECK_THROWS_WITH(writer.add("a", one), ContainsSubstring("one tensor of a name"));
  CHECK_THROWS_WITH(writer.add("__metadata__", one), ContainsSubstring("__metadata__"));
  CHECK_THROWS_WITH(writer.add("b", HostTensor<float>{std::vector<std::int64_t>(70, 1), {1}}),
                    ContainsSubstring("70 dimensions"));
  const auto path = support::scratch("written") / "f.safetensors";
  writer.write(path, {});
  CHECK(io::SafetensorsFile::read(path).tensors().size() == 1);
}
