// What the programs for language models do beside the model: texts, the pieces a step reads, records, stops.
#include <algorithm>
#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <numbers>
#include <string>
#include <vector>

#include <mamba/io/file.hpp>
#include <mamba/language_model.hpp>

#include "corpus.hpp"
#include "encoding.hpp"
#include "evaluation.hpp"
#include "pieces.hpp"
#include "size.hpp"
#include "stop_texts.hpp"
#include "training_history.hpp"

namespace {

namespace fs = std::filesystem;
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;
using namespace language;

std::vector<std::int32_t> counting(std::size_t size) {
  std::vector<std::int32_t> tokens(size);
  for (std::size_t i = 0; i < size; ++i) tokens[i] = static_cast<std::int32_t>(i);
  return tokens;
}

}  // namespace

TEST_CASE("language: an epoch's pieces are the text, each place once, and another epoch's others") {
  const auto tokens = counting(1003);
  constexpr int batch = 5, context = 10;
  const Pieces pieces(tokens, batch, context, 3, false);
  // From an offset below 10, (1003 - 10) / 10 pieces.
  std::vector<int> predicted(tokens.size());
  std::vector<std::int32_t> ids, first;
  for (long step = 0; step < 20; ++step) {
    pieces.draw(step, ids);
    REQUIRE(ids.size() == batch * (context + 1));
    if (step == 0) first = ids;
    for (int i = 0; i < batch; ++i)
      for (int t = 0; t <= context; ++t) {
        const auto at = static_cast<std::size_t>(i * (context + 1) + t);
        if (t > 0) CHECK(ids[at] == ids[at - 1] + 1);
        if (t > 0 && step * batch + i < 99) ++predicted[static_cast<std::size_t>(ids[at])];
      }
  }
  CHECK(*std::max_element(predicted.begin(), predicted.end()) == 1);
  CHECK(std::count(predicted.begin(), predicted.end(), 1) == 990);
  // A function of the step: not of what was drawn before.
  pieces.draw(0, ids);
  CHECK(ids == first);
  std::vector<std::int32_t> order;
  for (const long step : {0L, 20L, 40L}) pieces.draw(step, ids), order.push_back(ids[0]);
  CHECK_FALSE((order[0] == order[1] && order[1] == order[2]));
  Pieces(tokens, batch, context, 4, false).draw(0, ids);
  CHECK(ids != first);
}

TEST_CASE("language: carried readers go on where they were, and have read the text once when an epoch ends") {
  const auto tokens = counting(1003);
  constexpr int batch = 5, context = 10;
  const Pieces pieces(tokens, batch, context, 3, true);
  std::vector<int> predicted(tokens.size());
  std::vector<std::int32_t> ids, before;
  for (long step = 0; step < 20; ++step) {  // 1003 / 5 / 10 steps
    pieces.draw(step, ids);
    CHECK(pieces.begins(step) == (step == 0));
    for (int i = 0; i < batch; ++i) {
      const auto at = static_cast<std::size_t>(i * (context + 1));
      if (step > 0) CHECK(ids[at] == before[at + context]);
      for (std::size_t t = 1; t <= context; ++t) ++predicted[static_cast<std::size_t>(ids[at + t])];
    }
    before = ids;
  }
  CHECK(*std::max_element(predicted.begin(), predicted.end()) == 1);
  CHECK(std::count(predicted.begin(), predicted.end(), 1) == 1000);
  CHECK(pieces.begins(20));
}

TEST_CASE("language: a text that is too short for the context is refused, one that just fits is not") {
  const auto tokens = counting(11);
  std::vector<std::int32_t> ids;
  const Pieces whole(tokens, 2, 10, 0, false);
  whole.draw(7, ids);
  CHECK(std::equal(tokens.begin(), tokens.end(), ids.begin()));
  CHECK_THROWS_MATCHES(Pieces(tokens, 1, 11, 0, false), mamba::Error,
                       MessageMatches(ContainsSubstring("a context of 11 takes one more")));
  CHECK_NOTHROW(Pieces(tokens, 1, 10, 0, true));
  CHECK_THROWS_MATCHES(Pieces(tokens, 2, 10, 0, true), mamba::Error,
                       MessageMatches(ContainsSubstring("2 readers with a context of 10")));
}

TEST_CASE("language: the end of a text is held out, from a line's or a character's beginning on") {
  const fs::path folder = fs::temp_directory_path() / "mamba_language_corpus";
  fs::create_directories(folder);
  const auto path = folder / "text.txt";
  const Encoding bytes = Encoding::of("bytes");
  std::string lines;
  for (int i = 0; i < 1000; ++i) lines += "line " + std::to_string(i) + "\n";
  mamba::io::write_file(path, lines);
  const Corpus corpus = read_corpus({path, path}, bytes, 0.25);
  CHECK(corpus.training_bytes + corpus.held_out_bytes == 2 * lines.size());
  CHECK(static_cast<double>(corpus.held_out_bytes) == Approx(0.5 * static_cast<double>(lines.size())).epsilon(0.01));
  CHECK(corpus.training.size() == corpus.training_bytes);
  CHECK(corpus.training.back() == '\n');
  CHECK(corpus.held_out.front() == 'l');
  CHECK(corpus.fingerprint() == read_corpus({path, path}, bytes, 0.25).fingerprint());
  CHECK(corpus.fingerprint() != read_corpus({path, path}, bytes, 0.2).fingerprint());
  // Without lines: not inside a character of three bytes.
  std::string euros;
  for (int i = 0; i < 100; ++i) euros += "€";
  mamba::io::write_file(path, euros);
  CHECK(read_corpus({path}, bytes, 0.5).training_bytes % 3 == 0);
}

TEST_CASE("language: bytes as a tokenizer are bytes") {
  const Encoding bytes = Encoding::of("bytes");
  CHECK(bytes.vocab_size() == 256);
  std::string all;
  for (int byte = 0; byte < 256; ++byte) {
    all += static_cast<char>(byte);
    CHECK(bytes.tokenizer().bytes_of(byte) == std::string(1, static_cast<char>(byte)));
  }
  CHECK(bytes.encode(all, true) == counting(256));
  // The file that stands for them says the same of text.
  const auto text = mamba::text::Tokenizer::from_text(bytes.json());
  CHECK(text.encode("a €\n b") == bytes.encode("a €\n b", true));
}

TEST_CASE("language: the bits of a text are those of its loss, the state carried along all of it") {
  static constexpr mamba::Config config{.vocab_size = 8, .d_model = 16, .d_state = 4};
  mamba::MambaLMHeadModel<config, double> model({.n_layers = 2, .seed = 1});
  std::vector<std::int32_t> tokens(2500);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::int32_t>(i * i / 3 % 8);
  const double loss = model.loss_and_gradients(tokens, 1);
  int asked = 0;
  const auto always = [&] { return ++asked > 0; };
  CHECK(bits_of(model, tokens, always).value() == Approx(3 + 2499 * loss / std::numbers::ln2).epsilon(1e-10));
  CHECK(asked == 3);
  CHECK(bits_of(model, std::span(tokens).first(1), always).value() == 3);
  CHECK_FALSE(bits_of(model, tokens, [&] { return ++asked < 5; }));
}

TEST_CASE("language: a text ends before a stop, however it comes, and loses nothing to one that does not") {
  const std::string text = "one, two ** three *** four";
  for (std::size_t piece = 1; piece <= text.size(); ++piece) {
    StopTexts stops({"***", "five"});
    StopTexts none({"****"});
    std::string shown, all;
    for (std::size_t at = 0; at < text.size(); at += piece) {
      shown += stops.push(text.substr(at, piece));
      all += none.push(text.substr(at, piece));
    }
    CHECK(stops.stopped());
    CHECK(shown + stops.finish() == "one, two ** three ");
    CHECK_FALSE(none.stopped());
    CHECK(all + none.finish() == text);
  }
  StopTexts first({"b", "ab"});
  CHECK(first.push("xab") == "x");
}

TEST_CASE("language: a history is a run's, or refused") {
  History h;
  for (const long step : {4L, 8L, 10L}) h.rows.push_back({step, 2.5, 3, 1e-3, "a sample"});
  CHECK(History::from(h.json(), 10, 4, 10).csv() == h.csv());
  CHECK(h.samples().find("--- step 8: 3.000 bits a byte on held-out text\na sample\n") != std::string::npos);
  for (const long steps : {8L, 9L}) CHECK_THROWS_AS(History::from(h.json(), steps, 4, 10), mamba::Error);
  CHECK_THROWS_AS(History::from(h.json(), 10, 5, 10), mamba::Error);
  h.rows[1].held_out = -1;
  CHECK_THROWS_AS(History::from(h.json(), 10, 4, 10), mamba::Error);
}

TEST_CASE("language: a size's words are the same of a type and of a folder") {
  static constexpr mamba::Config config{.vocab_size = 96, .d_model = 32, .d_state = 8};
  using One = mamba::MambaLMHeadModel<config>;
  using Two = mamba::MambaLMHeadModel<config, mamba::Mamba2<16, 2, 1>, mamba::UntiedHead>;
  const fs::path data = MAMBA_TEST_DATA;
  CHECK(fields_of<One>() == "mamba1 32 96 8 4 2 tied");
  CHECK(fields_of<One>() == fields_of(mamba::describe(data / "hf_mamba_tiny")));
  CHECK(fields_of<Two>() == "mamba2:16:2:1 32 96 8 4 2 untied");
  CHECK(fields_of<Two>() == fields_of(mamba::describe(data / "hf_mamba2_tiny")));
  CHECK(mamba::describe(data / "hf_mamba2_tiny").end_tokens == std::vector<std::int32_t>{2});
}
