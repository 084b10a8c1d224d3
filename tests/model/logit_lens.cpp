#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config small{.vocab_size = 13, .d_model = 8, .d_state = 4};

// After l layers the lens shows what a model of these l layers answers.
template <class... Policies>
void check_lens() {
  constexpr int layers = 3, batch = 5, length = 7;
  using Model = MambaForComposite<small, double, Policies...>;
  Model model({.n_layers = layers, .seed = 3});
  const auto ids = support::random_tokens(batch * length, small.vocab_size, 5);
  const auto lens = logit_lens(model, ids, batch);
  REQUIRE(lens.size() == layers + 1);
  for (int l = 1; l <= layers; ++l) {
    INFO("after " << l << " layers");
    Model shorter({.n_layers = l, .seed = 99});
    auto dict = shorter.state_dict();
    const auto whole = model.state_dict();
    for (auto& [name, tensor] : dict) tensor = whole.at(name);
    shorter.load_state_dict(dict);
    const auto expected = shorter(ids, batch);
    double worst = 0, largest = 0;
    for (int s = 0; s < batch; ++s)
      for (int v = 0; v < small.vocab_size; ++v) {
        worst = support::larger(worst, std::abs(lens[static_cast<std::size_t>(l)](s, v) - expected(s, v)));
        largest = std::max(largest, std::abs(expected(s, v)));
      }
    CHECK(worst < 1e-12 * largest);
    CHECK(largest > 0);
  }
  // Before any layer it is the last token alone that answers.
  auto others = ids;
  for (int i = 0; i < batch * length; ++i)
    if (i % length != length - 1) others[static_cast<std::size_t>(i)] = (others[static_cast<std::size_t>(i)] + 1) % 13;
  const auto without = logit_lens(model, others, batch);
  for (int s = 0; s < batch; ++s)
    for (int v = 0; v < small.vocab_size; ++v) {
      CHECK(without[0](s, v) == lens[0](s, v));
      CHECK(without[layers](s, v) != lens[layers](s, v));
    }
}

}  // namespace

TEST_CASE("the logit lens shows the answers of the lower layers") {
  check_lens<>();
  check_lens<Mamba2<4>>();
  check_lens<Mamba3<>>();
  check_lens<UntiedHead>();
  check_lens<Mamba2<4>, UntiedHead, LearnedPosition<8>>();
  MambaForComposite<small, double> model({.n_layers = 1, .seed = 3});
  const std::vector<std::int32_t> ids{1, 2, 3, 4};
  CHECK_THROWS_WITH(logit_lens(model, ids, 3), ContainsSubstring("4"));
  for (const int batch : {0, -1, 1'000'000'000}) CHECK_THROWS_AS(logit_lens(model, ids, batch), Error);
  const std::vector<std::int32_t> unknown{1, 13};
  CHECK_THROWS_WITH(logit_lens(model, unknown, 1), ContainsSubstring("token 13"));
}
