// What factors do to what is observed, and the design that tells them apart.
#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <filesystem>
#include <set>
#include <vector>

#include <mamba/composite.hpp>

#include "factorial.hpp"

namespace {

using namespace comparison;
using Catch::Approx;

}  // namespace

TEST_CASE("examples: no effect of one factor of the design is mixed up with another's, nor with two's together") {
  const auto sign = [](std::size_t line, std::size_t factor) { return levels_of(line)[factor] ? 1 : -1; };
  std::set<std::vector<bool>> lines;
  for (std::size_t i = 0; i < lines_of_design; ++i) lines.insert(levels_of(i));
  CHECK(lines.size() == lines_of_design);
  CHECK(levels_of(0) == std::vector<bool>(factors_of_design, false));
  for (std::size_t f = 0; f < factors_of_design; ++f) {
    int sum = 0;
    for (std::size_t i = 0; i < lines_of_design; ++i) sum += sign(i, f);
    CHECK(sum == 0);
    for (std::size_t g = 0; g < factors_of_design; ++g)
      for (std::size_t h = 0; h < g; ++h) {
        int product = 0, pair = 0;
        for (std::size_t i = 0; i < lines_of_design; ++i)
          product += sign(i, f) * sign(i, g) * sign(i, h), pair += sign(i, g) * sign(i, h);
        CHECK(pair == 0);
        if (f != g && f != h) CHECK(product == 0);
      }
  }
}

TEST_CASE("examples: effects are found again, with the error that repetitions show") {
  // y = 10 + 3 for the second factor's high level - 2 for the last's, and a spread of +-1 between two repetitions.
  std::vector<DesignedRun> runs;
  for (std::size_t i = 0; i < lines_of_design; ++i)
    for (const double noise : {-1.0, 1.0}) {
      const auto levels = levels_of(i);
      runs.push_back({levels, i, {10 + 3.0 * levels[1] - 2.0 * levels[6] + noise, NAN}});
    }
  const Effects effects = effects_of(runs, factors_of_design, 2);
  for (std::size_t f = 0; f < factors_of_design; ++f) {
    CHECK(effects[0][f].value == Approx(f == 1 ? 3 : f == 6 ? -2 : 0).margin(1e-12));
    // 32 squares of 1 over 16 degrees of freedom; two halves of 16 runs.
    CHECK(effects[0][f].error == Approx(std::sqrt(2.0 * (1.0 / 16 + 1.0 / 16))));
    CHECK(std::isnan(effects[1][f].value));
    CHECK(std::isnan(effects[1][f].error));
  }
  // Without repetitions there is no error. A line that is missing, and a run that diverged, leave the effects as they
  // are.
  std::vector<DesignedRun> once;
  for (std::size_t i = 1; i < lines_of_design; ++i) {
    const auto levels = levels_of(i);
    once.push_back({levels, i, {4 + 1.0 * levels[0] - 0.5 * levels[3] + 7.0 * levels[5]}});
  }
  once[3].observed[0] = NAN;
  for (std::size_t f = 0; f < factors_of_design; ++f) {
    const Effect effect = effects_of(once, factors_of_design, 1)[0][f];
    CHECK(effect.value == Approx(f == 0 ? 1 : f == 3 ? -0.5 : f == 5 ? 7 : 0).margin(1e-12));
    CHECK(std::isnan(effect.error));
  }
  // Nothing is said where too few runs are there.
  once.resize(5);
  for (const auto& few : {once, std::vector<DesignedRun>{}}) {
    const Effects none = effects_of(few, factors_of_design, 1);
    for (const Effect& effect : none[0]) CHECK(std::isnan(effect.value));
  }
}

TEST_CASE("examples: what is observed of a run") {
  using mamba::Cpu;
  using Experiment = runs::Composite;
  static constexpr mamba::Config config{.vocab_size = 100, .d_model = 8, .d_state = 4};
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / "mamba-examples-observed";
  std::filesystem::create_directories(folder);
  const mamba::MambaForComposite<config, Cpu> model({.n_layers = 2, .seed = 3});
  mamba::save(model, folder / "model_final.safetensors");
  double squares = 0;
  for (int layer = 0; layer < 2; ++layer) {
    const auto cosines = mamba::conv_tap_cosines(model, layer);
    for (int k = 0; k < 4; ++k)
      for (int l = 0; l < k; ++l) squares += cosines(k, l) * cosines(k, l);
  }
  // epoch, loss, composite, symmetric, rate: eight evaluations, of which the last two are late.
  std::vector<std::vector<double>> log;
  for (const double composite : {0.1, 0.4, 0.5, 0.3, 0.9, 0.8, 0.6, 0.8}) {
    const auto epoch = static_cast<double>(log.size() + 1);
    log.push_back({epoch, 5 - epoch, composite, 0.01 * epoch, 1e-3});
  }
  const auto values = observed<Experiment>(log, folder);
  REQUIRE(values.size() == observables<Experiment>().size());
  const double expected[] = {4, 0.8, 0.08, 0.9, 3, 0.1, std::sqrt(squares / 12)};
  for (std::size_t o = 0; o < values.size(); ++o) {
    INFO(observables<Experiment>()[o]);
    CHECK(values[o] == Approx(expected[o]));
  }
  for (auto& row : log) row[2] = 0.2;
  std::filesystem::remove(folder / "model_final.safetensors");
  const auto others = observed<Experiment>(log, folder);
  CHECK(others[4] == 8);  // never half: the end
  CHECK(std::isnan(others.back()));
}
