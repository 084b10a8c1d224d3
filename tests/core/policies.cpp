#include <catch2/catch_test_macros.hpp>
#include <type_traits>

#include <mamba/core/policies.hpp>

using namespace mamba;

inline constexpr Config config{};

TEST_CASE("policies in any order stand for one architecture") {
  STATIC_CHECK(
      std::is_same_v<Resolve<config>, Resolve<config, Cpu, float, Mamba1, LearnedConv, NoPosition, NoConvResidual>>);
  STATIC_CHECK(std::is_same_v<Resolve<config, double, OnesConv>, Resolve<config, OnesConv, Cpu, double>>);
  STATIC_CHECK_FALSE(std::is_same_v<Resolve<config>, Resolve<config, double>>);
}

TEST_CASE("the configuration's derived sizes") {
  CHECK(config.d_inner() == 64);
  CHECK(config.dt_rank() == 2);
  CHECK(config.padded_vocab_size() == 104);
  constexpr Config odd{.vocab_size = 8, .d_model = 33};
  CHECK(odd.dt_rank() == 3);
  CHECK(odd.padded_vocab_size() == 8);
}
