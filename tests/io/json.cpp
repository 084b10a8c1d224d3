#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include <mamba/io/json.hpp>

using mamba::io::Json;

TEST_CASE("what is written reads back, here and elsewhere") {
  const Json value = Json::Members{{"text", "a \"quoted\" \\ line\nand a tab\t, γ"},
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
