// Text to tokens and back: Hugging Face's own numbers, and what is refused. text/compare_tokenizers.py asks the library
// itself.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include <mamba/text/tokenizer.hpp>

#include "support/processor_seconds.hpp"
#include "support/scratch.hpp"

using Catch::Matchers::ContainsSubstring;
using mamba::text::Tokenizer;
using mamba::text::TokenStream;

namespace {

const std::string data = MAMBA_TEST_DATA;

Tokenizer reference(const std::string& name) { return Tokenizer::from_file(data + "/" + name + "/tokenizer.json"); }

// A file that lacks nothing: its words are a, b and ab.
nlohmann::json small_file() {
  return {{"added_tokens", nlohmann::json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", {"a b"}}}}};
}
Tokenizer read(const nlohmann::json& file) { return Tokenizer::from_text(file.dump()); }

// Valid UTF-8 of characters of all lengths.
std::string random_text(std::uint64_t seed, int characters) {
  std::string text;
  std::mt19937_64 random(seed);
  for (int i = 0; i < characters; ++i) {
    const std::uint64_t bits = random();
    const char32_t limits[] = {0x80, 0x80, 0x800, 0x3000, 0x10000, 0x110000};
    const auto code = static_cast<char32_t>((bits >> 8) % limits[bits % 6]);
    mamba::text::append_utf8(text, code >= 0xD800 && code < 0xE000 ? U'x' : code);
  }
  return text;
}

}  // namespace

TEST_CASE("texts become the tokens of Hugging Face's tokenizers library, and these the texts") {
  for (const char* name : {"tokenizer_neox_tiny", "tokenizer_llama3_tiny"}) {
    INFO(name);
    const Tokenizer tokenizer = reference(name);
    const auto expected = nlohmann::json::parse(std::ifstream(data + "/" + name + "/expected.json"));
    CHECK(tokenizer.vocab_size() == expected.at("vocab_size").get<int>());
    for (const auto& row : expected.at("cases")) {
      const auto text = row.at("text").get<std::string>();
      const auto plain = row.at("ids_without_special").get<std::vector<std::int32_t>>();
      INFO(row.at("text"));
      CHECK(tokenizer.encode(text) == row.at("ids").get<std::vector<std::int32_t>>());
      CHECK(tokenizer.encode(text, false) == plain);
      CHECK(tokenizer.decode(plain) == row.at("decoded").get<std::string>());
    }
  }
}

TEST_CASE("a text comes back, whole or token by token") {
  const Tokenizer tokenizer = reference("tokenizer_llama3_tiny");  // which normalises nothing
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const std::string text = random_text(seed, static_cast<int>(seed));
    const auto ids = tokenizer.encode(text, false);
    CHECK(tokenizer.decode(ids) == text);
    TokenStream stream(tokenizer);
    std::string streamed;
    for (const std::int32_t id : ids) {
      const std::string piece = stream.push(id);
      CHECK_NOTHROW(mamba::text::check_utf8(piece));
      streamed += piece;
    }
    streamed += stream.finish();
    CHECK(streamed == text);
  }
}

TEST_CASE("a stream of tokens gives whole characters, and what never becomes one as U+FFFD") {
  const Tokenizer tokenizer = reference("tokenizer_llama3_tiny");
  const auto byte = [&](unsigned char b) { return tokenizer.encode(std::string(1, static_cast<char>(b)), false)[0]; };
  std::vector<std::int32_t> bytes;  // of the euro sign, one by one
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id)
    for (const char* b : {"\xE2", "\x82", "\xAC"})
      if (tokenizer.bytes_of(id) == b) bytes.push_back(id);
  REQUIRE(bytes.size() == 3);
  std::sort(bytes.begin(), bytes.end(), [&](std::int32_t a, std::int32_t b) {
    const std::string_view order = "\xE2\x82\xAC";
    return order.find(tokenizer.bytes_of(a)) < order.find(tokenizer.bytes_of(b));
  });
  TokenStream stream(tokenizer);
  CHECK(stream.push(bytes[0]).empty());
  CHECK(stream.push(bytes[1]).empty());
  CHECK(stream.push(bytes[2]) == "\xE2\x82\xAC");
  CHECK(stream.push(bytes[0]).empty());
  CHECK(stream.push(byte('x')) == "\xEF\xBF\xBDx");
  CHECK(stream.push(bytes[1]) == "\xEF\xBF\xBD");
  CHECK(stream.push(bytes[0]).empty());
  CHECK(stream.finish() == "\xEF\xBF\xBD");
  CHECK(stream.finish().empty());
}

TEST_CASE("special tokens are known by their names, and left out where the caller says so") {
  const Tokenizer tokenizer = reference("tokenizer_neox_tiny");
  REQUIRE(tokenizer.id_of("<|endoftext|>") == 0);
  CHECK_FALSE(tokenizer.id_of("<|no such token|>"));
  const auto ids = tokenizer.encode("a<|endoftext|>b");
  CHECK(tokenizer.decode(ids) == "a<|endoftext|>b");
  CHECK(tokenizer.decode(ids, true) == "ab");
  const std::int32_t unknown[] = {-1, 1 << 30, tokenizer.vocab_size()};
  CHECK(tokenizer.decode(unknown).empty());
  CHECK(tokenizer.encode("").empty());
  CHECK(reference("tokenizer_llama3_tiny").encode("").size() == 1);
}

TEST_CASE("several threads encode at once") {
  const Tokenizer tokenizer = reference("tokenizer_neox_tiny");
  std::vector<std::future<std::vector<std::int32_t>>> found;
  const std::string text = random_text(1, 5000);
  for (int i = 0; i < 4; ++i) found.push_back(std::async(std::launch::async, [&] { return tokenizer.encode(text); }));
  const auto expected = tokenizer.encode(text);
  for (auto& future : found) CHECK(future.get() == expected);
}

TEST_CASE("merges go by rank, the first of equals first, in words of any length") {
  auto file = small_file();
  file["model"]["vocab"] = {{"a", 0}, {"aa", 1}, {"aaaa", 2}};
  file["model"]["merges"] = {"a a", "aa aa"};
  const Tokenizer tokenizer = read(file);
  CHECK(tokenizer.encode("aaaaaaa") == std::vector<std::int32_t>{2, 1, 0});
  const auto many = tokenizer.encode(std::string(1'000'003, 'a'));
  CHECK(many.size() == 250'002);
  CHECK(many.back() == 0);
}

TEST_CASE("long texts of one kind take no longer than others") {
  const Tokenizer tokenizer = reference("tokenizer_neox_tiny");
  std::string marks = "a", letters;
  for (int i = 0; i < 100'000; ++i) marks += "\xCC\x81\xCC\xA7";  // combining marks out of their order
  const double begin = support::processor_seconds();
  CHECK(tokenizer.encode(marks).size() > 100'000);
  CHECK(tokenizer.encode(std::string(400'000, ' ')).size() > 1'000);
  CHECK(tokenizer.encode(std::string(400'000, '1')).size() > 1'000);
  CHECK(support::processor_seconds() - begin < 20);
  // A pattern that goes back over all of it.
  auto file = small_file();
  file["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "(?:\\p{L}|\\p{M})+"}}}, {"behavior", "Isolated"}},
        {{"type", "ByteLevel"}, {"use_regex", false}}}}};
  CHECK(read(file).encode(std::string(20'000, 'a')).size() == 20'000);
}

TEST_CASE("patterns mean what they do in Oniguruma, or are refused") {
  const auto pieces = [](const char* expression, std::string_view text) {
    std::vector<std::string> found;
    mamba::text::Pattern(expression).each_piece(text, [&](std::string_view piece, bool) { found.emplace_back(piece); });
    return found;
  };
  using Pieces = std::vector<std::string>;
  CHECK(pieces("\\w+", "cafe\xCC\x81 a_b") == Pieces{"cafe\xCC\x81", " ", "a_b"});
  CHECK(pieces("\\w+", "x\xC2\xB2 \xC2\xBCy\xC2\xB7") == Pieces{"x\xC2\xB2", " ", "\xC2\xBCy", "\xC2\xB7"});
  CHECK(pieces("[\\w]+", "x\xC2\xB2") == Pieces{"x", "\xC2\xB2"});
  CHECK(pieces("\\W+", "x\xC2\xB2-") == Pieces{"x\xC2\xB2", "-"});
  CHECK(pieces("[\\w-]+", "a-b c") == Pieces{"a-b", " ", "c"});
  CHECK(pieces("\\h+", "xaf 1") == Pieces{"x", "af", " ", "1"});
  CHECK(pieces("^ab", "ab\nab") == Pieces{"ab", "\n", "ab"});
  CHECK(pieces("\\s", "a\xC2\xA0\xE1\xA0\x8E") == Pieces{"a", "\xC2\xA0", "\xE1\xA0\x8E"});
  CHECK(pieces("\\v", "a\vb\n") == Pieces{"a", "\v", "b\n"});
  CHECK(pieces("\\p{Han}+", "\xE4\xB8\x80\xE3\x80\x81") == Pieces{"\xE4\xB8\x80", "\xE3\x80\x81"});
  CHECK(pieces("[^\\p{^Han}]", "\xE4\xB8\x80\xE3\x80\x81") == Pieces{"\xE4\xB8\x80", "\xE3\x80\x81"});
  CHECK(pieces("a{1,3}?", "aa") == Pieces{"a", "a"});
  CHECK(pieces("[]a]", "a]b") == Pieces{"a", "]", "b"});
  for (const char* expression :
       {"\\bfoo", "[a-z&&[^b]]", "[a[bc]]", "[[:alpha:]]", "\\p{N}{1,3}+", "(?m:a.b)", "(?im)a", "(?i-m:a)", "a{,2}",
        "a{2}?", "\\C", "[\\W]", "a\\Kb", "\\Qa\\E", "\\X", "\\V"})
    CHECK_THROWS_AS(mamba::text::Pattern(expression), mamba::Error);
}

TEST_CASE("a text that is no UTF-8 is refused with the place") {
  const Tokenizer tokenizer = reference("tokenizer_neox_tiny");
  for (const char* text :
       {"ok \xFF", "ok \xC0\x80", "ok \xE2\x82", "ok \xED\xA0\x80", "ok \xF4\x90\x80\x80", "ok \x80"})
    CHECK_THROWS_WITH(tokenizer.encode(text), ContainsSubstring("not valid UTF-8: byte 3"));
  CHECK_NOTHROW(tokenizer.encode(std::string("zero \0 byte", 11)));
}

TEST_CASE("what a file asks for that is not there is refused by its name") {
  struct Row {
    const char* place;
    nlohmann::json value;
    const char* message;
  };
  const Row rows[] = {
      {"/model/type", "WordPiece", "model \"WordPiece\""},
      {"/model/dropout", 0.1, "dropout = 0.1"},
      {"/model/unk_token", "<unk>", "unk_token"},
      {"/model/byte_fallback", true, "byte_fallback"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"/model/vocab/b", 0, "two of the tokenizer's tokens have the number 0"},
      {"/model/vocab/b", -1, "-1 is out of range"},
      {"/model/merges", {"a c"}, "merge \"a c\" has the token \"c\""},
      {"/model/merges", {"ab"}, "is no pair of tokens"},
      {"/model/merges", {{"a", "b", "c"}}, "is no pair of tokens"},
      {"/normalizer", {{"type", "BertNormalizer"}}, "normalizer \"BertNormalizer\""},
      {"/pre_tokenizer", {{"type", "Metaspace"}}, "pre_tokenizer \"Metaspace\""},
      {"/pre_tokenizer", nullptr, "no ByteLevel"},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}},
       "\"(a\" is refused"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"String", "a"}}}, {"behavior", "Odd"}}, "behavior \"Odd\""},
      {"/pre_tokenizer",
       {{"type", "Sequence"}, {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}},
       "\"Digits\" behind ByteLevel"},
      {"/post_processor",
       {{"type", "TemplateProcessing"},
        {"single", {{{"SpecialToken", {{"id", "x"}}}}, {{"Sequence", {{"id", "A"}}}}}},
        {"special_tokens", {{"x", {{"ids", {77}}}}}}},
       "token 77, which there is not"},
      {"/model/vocab/b", 16777215, "16777215 is out of range"},
      {"/post_processor", {{"type", "RobertaProcessing"}}, "post_processor \"RobertaProcessing\""},
      {"/decoder", {{"type", "WordPiece"}}, "decoder \"WordPiece\""},
      {"/truncation", {{"max_length", 5}}, "truncation"},
      {"/padding", {{"length", 5}}, "padding"},
      {"/added_tokens", {{{"id", 7}, {"content", "a"}}}, "\"a\" has two numbers, 0 and 7"},
      {"/added_tokens", {{{"id", -7}, {"content", "x"}}}, "has the number -7"},
      {"/model", 5, "expected an object"},
  };
  CHECK(read(small_file()).encode("abba") == std::vector<std::int32_t>{2, 1, 0});
  for (const Row& row : rows) {
    INFO(row.place << " " << row.value);
    auto file = small_file();
    file[nlohmann::json::json_pointer(row.place)] = row.value;
    CHECK_THROWS_WITH(read(file), ContainsSubstring(row.message));
  }
  auto file = small_file();
  file.erase("model");
  CHECK_THROWS_WITH(read(file), ContainsSubstring("model"));
}

TEST_CASE("a file is found in its folder, and what is wrong is said with its name") {
  const auto folder = support::scratch("tokenizer");
  std::ofstream(folder / "tokenizer.json") << small_file().dump();
  CHECK(Tokenizer::from_file(folder).vocab_size() == 3);
  CHECK_THROWS_WITH(Tokenizer::from_file(folder / "none.json"), ContainsSubstring("none.json"));
  std::ofstream(folder / "tokenizer.json") << "{";
  CHECK_THROWS_WITH(Tokenizer::from_file(folder), ContainsSubstring("tokenizer.json"));
}
