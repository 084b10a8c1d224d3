// Mamba-3's primitives by one thread block against the CPU's in double, primitive against primitive.
#include "support/rotary_block.hpp"

using namespace support::rotary;

TEST_CASE("CUDA: Mamba-3's recurrence is the CPU's at the composite task's sizes") {
  support::need_device();
  using Composite = Shape<1, 64, 1, 128, 0, 32>;
  check_scans<OneBlock, Composite>(std::vector<int>(16, 8));
  check_scans<OneBlock, Composite>(mixed_lengths);
}

TEST_CASE("CUDA: tokens of Mamba-3 one by one") {
  support::need_device();
  check_scans<OneBlock, Shape<2, 16, 1, 32, 0, 8>>(std::vector<int>(35, 1));
}

TEST_CASE("CUDA: one token of Mamba-3 that forgets all costs the others no digits") {
  support::need_device();
  check_scan<OneBlock, float, Shape<2, 16, 1, 32, 0, 8>>({40, 9}, {.forgetting = 3e4});
}

TEST_CASE("CUDA: Mamba-3's tokens in pieces end in the same states") {
  support::need_device();
  using Sizes = Shape<2, 16, 1, 32, 0, 8>;
  using Pass = ScanPass<OneBlock, double, Sizes>;
  const What what{.with_states = true, .backward = false};
  Pass whole({21}, what);
  Buffer history(whole.history_count * sizeof(double)), states(whole.state_count * sizeof(double));
  std::copy_n(whole.history.as<double>(), whole.history_count, history.as<double>());
  std::copy_n(whole.states.as<double>(), whole.state_count, states.as<double>());
  whole.on_gpu();
  std::vector<double> y;
  for (const int length : {1, 1, 9, 8, 1, 1}) {
    Pass piece({length}, what);
    const int from = static_cast<int>(y.size()) / Pass::Y;
    for (int t = 0; t < length; ++t) {
      for (int c = 0; c < Pass::C; ++c) piece.xbc.at(t, c) = whole.xbc.at(from + t, c);
      for (int k = 0; k < Pass::A; ++k) piece.turns.at(t, k) = whole.turns.at(from + t, k);
      for (int h = 0; h < Pass::H; ++h) {
        piece.delta.at(t, h) = whole.delta.at(from + t, h), piece.mu.at(t, h) = whole.mu.at(from + t, h);
        piece.log_decay.at(t, h) = whole.log_decay.at(from + t, h);
      }
    }
    std::copy_n(history.as<double>(), whole.history_count, piece.history.as<double>());
    std::copy_n(states.as<double>(), whole.state_count, piece.states.as<double>());
    piece.on_gpu();
    std::copy_n(piece.history.as<double>(), whole.history_count, history.as<double>());
    std::copy_n(piece.states.as<double>(), whole.state_count, states.as<double>());
    const auto part = piece.y.dense();
    y.insert(y.end(), part.begin(), part.end());
  }
  CHECK(support::relative_error(y, whole.y.dense()) < 1e-14);
  std::vector<double> found(states.as<double>(), states.as<double>() + whole.state_count);
  CHECK(support::relative_error(found, whole.states_found()) < 1e-14);
  found.assign(history.as<double>(), history.as<double>() + whole.history_count);
  CHECK(support::relative_error(found, whole.history_found()) < 1e-14);
}

TEST_CASE("CUDA: Mamba-3's recurrence gives the same bytes again") {
  support::need_device();
  using Pass = ScanPass<OneBlock, float, Shape<2, 16, 1, 32, 0, 8>>;
  Pass first(mixed_lengths, {}), second(mixed_lengths, {});
  first.on_gpu(), second.on_gpu();
  CHECK(first.ddelta.dense() == second.ddelta.dense());
  CHECK(first.dangles.dense() == second.dangles.dense());
  CHECK(first.dxbc.dense() == second.dxbc.dense());
  CHECK(first.db_bias.dense() == second.db_bias.dense());
  CHECK(first.dc_norm.dense() == second.dc_norm.dense());
}

TEST_CASE("CUDA: decays, weights and angles of Mamba-3 are the CPU's") {
  support::need_device();
  const auto check = [&]<class Sizes, bool softplus_rate = false>(const std::vector<int>& lengths) {
    for (const bool with_history : {false, true}) {
      check_trapezoid<OneBlock, double, Sizes, softplus_rate>(lengths, with_history);
      check_trapezoid<OneBlock, float, Sizes, softplus_rate>(lengths, with_history);
    }
  };
  check.template operator()<Shape<1, 64, 1, 128, 0, 32>>(std::vector<int>(16, 8));
  check.template operator()<Shape<1, 64, 1, 128, 0, 32>>({100});
  check.template operator()<Shape<4, 4, 2, 6, 0, 1>, true>(mixed_lengths);
  check.template operator()<Shape<6, 3, 3, 10, 0, 5>>({40, 1, 11});
  check.template operator()<Shape<3, 64, 1, 128, 0, 64>>({8, 0, 20});
  check.template operator()<Shape<2, 16, 1, 40, 0, 10>>({1});
}
