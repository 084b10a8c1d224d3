#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include <mamba/io/json.hpp>

#include "support/processor_seconds.hpp"

using Catch::Matchers::ContainsSubstring;
using mamba::io::Json;

namespace {

// "[I,I,...]" or "{I,I,...}" with n items, each made by item(i).
template <class Item>
std::string listed(char open, char close, int n, Item&& item) {
  std::string text(1, open);
  for (int i = 0; i < n; ++i) text.append(i ? "," : "").append(item(i));
  return text + close;
}

double seconds_to_parse(const std::string& text) {
  const double begin = support::processor_seconds();
  (void)Json::parse(text);
  return support::processor_seconds() - begin;
}

}  // namespace

TEST_CASE("what is written reads back, here and elsewhere") {
  const Json value =
      Json::Members{{"text", "a \"quoted\" \\ line\nand a tab\t, γ"},
                    {"numbers", Json::Elements{0, -3, 0.1, 1e-300, 2.5e17, std::uint64_t{18446744073709551615U}}},
                    {"empty", Json::Members{}},
                    {"list", Json::Elements{}},
                    {"yes", true},
                    {"nothing", Json()}};
  for (const int indent : {-1, 2}) {
    const std::string text = value.dump(indent);
    CHECK(Json::parse(text).dump() == value.dump());
    const auto theirs = nlohmann::json::parse(text);
    CHECK(theirs.at("text").get<std::string>() == value.at("text").string());
    CHECK(theirs.at("numbers").at(2).get<double>() == 0.1);
    CHECK(theirs.at("numbers").at(5).get<std::uint64_t>() == 18446744073709551615U);
    CHECK(theirs.at("nothing").is_null());
  }
  CHECK(Json::parse("-12.5e1").number() == -125);
  CHECK(Json::parse(R"("\u00e9\ud83d\ude00\/")").string() == "é😀/");
}

TEST_CASE("what is not JSON, another JSON library refuses too") {
  for (const std::string text : {"",
                                 "{",
                                 "[1,]",
                                 "{\"a\":1,}",
                                 "{'a':1}",
                                 "01",
                                 "+1",
                                 "1.",
                                 ".5",
                                 "1e",
                                 "nul",
                                 "\"\\x\"",
                                 "\"\\ud800\"",
                                 "\"\\ude00\"",
                                 "\"a\nb\"",
                                 "[1] 2",
                                 "\"\xff\"",
                                 "\"\xc0\x80\"",
                                 "\"\xed\xa0\x80\"",
                                 "NaN",
                                 "{\"a\" 1}",
                                 "{1:2}",
                                 "[",
                                 "\"",
                                 "\"\\u12\"",
                                 "-"}) {
    INFO(text);
    CHECK_THROWS_AS(Json::parse(text), mamba::Error);
    CHECK_FALSE(nlohmann::json::accept(text));
  }
  CHECK_THROWS_AS(Json::parse(R"({"a": 1, "a": 2})"), mamba::Error);  // allowed elsewhere, not here
  CHECK_THROWS_AS(Json::parse(std::string(100000, '[')), mamba::Error);
}

TEST_CASE("asking for the wrong kind says so") {
  CHECK_THROWS_AS(Json(1).string(), mamba::Error);
  CHECK_THROWS_AS(Json::parse("1.5").integer(), mamba::Error);
  CHECK_THROWS_AS(Json::parse("99999999999999999999").integer(), mamba::Error);
  CHECK_THROWS_AS(Json::parse("-1").integer<std::uint64_t>(), mamba::Error);
  CHECK_THROWS_AS(Json::parse("{}").at("key"), mamba::Error);
}

TEST_CASE("any bytes are written as valid JSON") {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text{'a', static_cast<char>(byte), 'b'};
    const std::string written = Json(Json::Members{{text, text}}).dump();
    INFO(byte << ": " << written);
    REQUIRE(nlohmann::json::accept(written));
    const std::string expected = byte < 0x80 ? text
                                             : "a\xEF\xBF\xBD"
                                               "b";
    CHECK(nlohmann::json::parse(written).at(expected).get<std::string>() == expected);
    CHECK(Json::parse(written).at(expected).string() == expected);
    for (const char c : written) CHECK((static_cast<unsigned char>(c) >= 0x20 && c != 0x7F));
  }
  CHECK(Json("\xF0\x9F\x98\x80 \xED\xA0\x80 \xC0\x80 \xF0\x9F").dump() ==
        "\"\xF0\x9F\x98\x80 \xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD \xEF\xBF\xBD\xEF\xBF\xBD \xEF\xBF\xBD\xEF\xBF\xBD\"");
}

TEST_CASE("numbers: no NaN, no infinity, the shortest text that reads back") {
  using Limits = std::numeric_limits<double>;
  for (const double x : {Limits::quiet_NaN(), -Limits::quiet_NaN(), Limits::infinity(), -Limits::infinity()})
    CHECK(Json(x).dump() == "null");
  for (const double x : {0.1, -0.0, Limits::max(), Limits::min(), Limits::denorm_min(), 1e-310, 123456789.125}) {
    const double back = Json::parse(Json(x).dump()).number();
    CHECK(back == x);
    CHECK(std::signbit(back) == std::signbit(x));
  }
  CHECK(Json(std::numeric_limits<long long>::min()).integer<long long>() == std::numeric_limits<long long>::min());
  CHECK(Json(12345678).dump() == "12345678");  // the longest that stands in place
  CHECK(Json(123456789).dump() == "123456789");
  for (const char* text : {"1e400", "-1e400", "1.7976931348623159e308"})
    CHECK_THROWS_WITH(Json::parse(text).number(), ContainsSubstring(text));
}

TEST_CASE("an integer is one that the type holds, written as one") {
  for (const char* text : {"1e5", "1.0", "-0", "-0.0", "2147483648", "-2147483649", "1e400"}) {
    INFO(text);
    CHECK_THROWS_WITH(Json::parse(text).integer<int>(), ContainsSubstring(text));
  }
  CHECK_THROWS_AS(Json::parse("-0").integer<std::uint64_t>(), mamba::Error);
  CHECK(Json::parse("-2147483648").integer<int>() == -2147483648);
  CHECK(Json::parse("0").integer<int>() == 0);
}

TEST_CASE("messages stay short and clean, whatever is in the file") {
  const auto message = [](auto&& call) -> std::string {
    try {
      call();
    } catch (const mamba::Error& error) {
      return error.what();
    }
    return {};
  };
  const std::string hostile = "\x1b[2J\n\xff" + std::string(1000, 'x');
  const Json value = Json::Members{{hostile, hostile}};
  CHECK(value.brief() == "an object");
  CHECK(Json("short").brief() == "\"short\"");
  CHECK(Json().brief() == "null");
  for (const std::string& what :
       {Json(hostile).brief(), message([&] { (void)value.at(hostile).integer(); }),
        message([&] { (void)Json(Json::Members{}).at(hostile); }),
        message([&] { (void)Json::parse("{\"k\":1" + std::string(1000, '0') + "}").at("k").integer(); }), message([&] {
          (void)Json::parse("{\"" + std::string(1000, 'k') + "\":1,\"" + std::string(1000, 'k') + "\":1}");
        })}) {
    CHECK(what.size() > 10);
    CHECK(what.size() < 250);
    for (const char c : what) CHECK((static_cast<unsigned char>(c) >= 0x20 && c != 0x7F));
  }
}

TEST_CASE("a key that occurs twice is found, however many there are and however it is written") {
  for (const int n : {2, 20, 50000}) {
    const auto key = [](int i) { return "\"k" + std::to_string(i) + "\":" + std::to_string(i); };
    const std::string text = listed('{', '}', n, key);
    const Json json = Json::parse(text);
    REQUIRE(json.members().size() == static_cast<std::size_t>(n));
    for (int i = 0; i < n; i += n / 2) CHECK(json.at("k" + std::to_string(i)).integer<int>() == i);
    CHECK(json.find("k") == nullptr);
    CHECK(json.find("l") == nullptr);
    for (const char* again : {",\"k0\":0}", ",\"\\u006b1\":0}"})
      CHECK_THROWS_WITH(Json::parse(text.substr(0, text.size() - 1) + again),
                        ContainsSubstring("\"k") && ContainsSubstring("occurs twice"));
  }
  CHECK_THROWS_WITH(Json::parse(R"({"\u00e9": 1, "é": 2})"), ContainsSubstring("occurs twice"));
  CHECK_THROWS_WITH(Json::parse(R"({"a": [{"b": {"c": 1, "c": 2}}]})"), ContainsSubstring("occurs twice"));
  CHECK(Json::parse(R"({"a": {"a": {"a": 1}}, "b": {"a": 2}})").at("b").at("a").integer() == 2);
}

// The square of n would make 16 times the time of 4 times the text.
TEST_CASE("time grows with the text, not with its square") {
  const auto by_kind = [](int kind, int n) {
    if (kind == 0) return listed('{', '}', n, [](int i) { return "\"" + std::to_string(i) + "\":0"; });
    if (kind == 1) return listed('[', ']', n, [](int) { return std::string("[]"); });
    if (kind == 2) return listed('{', '}', n, [](int i) { return "\"\\u0041" + std::to_string(i) + "\":{}"; });
    return "\"" + std::string(static_cast<std::size_t>(n), 'x') + "\\n" +
           std::string(static_cast<std::size_t>(n), 'y') + "\"";
  };
  for (int kind = 0; kind < 4; ++kind) {
    const double small = seconds_to_parse(by_kind(kind, 50000)), large = seconds_to_parse(by_kind(kind, 200000));
    INFO("kind " << kind << ": " << small << " s, " << large << " s");
    CHECK(large < 10 * small + 0.2);
  }
  const std::string many = by_kind(0, 100000);
  const Json json = Json::parse(many);
  const double begin = support::processor_seconds();
  for (const auto& [key, value] : json.members()) REQUIRE(json.find(key) == &value);
  CHECK(support::processor_seconds() - begin < 2);
}

TEST_CASE("a value is small") {
  STATIC_REQUIRE(sizeof(Json) <= 2 * sizeof(void*));
  const Json copied = Json::parse(R"([1, "a", {"b": [null, true, 1234567890.5]}])");
  Json other = copied;
  other = Json(3);
  CHECK(other.dump() == "3");
  CHECK(copied.dump() == R"([1, "a", {"b": [null, true, 1234567890.5]}])");
}

TEST_CASE("nesting has a limit, in what is read and in what is passed over") {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  CHECK(Json::parse(nested(127)).dump() == nested(127));
  CHECK_THROWS_WITH(Json::parse(nested(128)), ContainsSubstring("nested too deeply"));
  const std::string deep = nested(1000000);
  CHECK_THROWS_WITH(mamba::io::JsonReader(deep).skip(), ContainsSubstring("nested too deeply"));
}
