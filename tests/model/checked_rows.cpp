// Models keep to the rows that MAMBA_CHECKED checks; with the argument `beyond` the program reads past a matrix, which
// must be reported.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <mamba/composite.hpp>

namespace {

using namespace mamba;

inline constexpr Config config{.d_model = 24, .d_state = 5};

inline constexpr Config even_config{.d_model = 24, .d_state = 6};
inline constexpr Mamba3Config of_heads{.headdim = 8, .ngroups = 2}, of_ranks{.headdim = 12, .rank = 3};

template <Config sizes, class... Policies>
void run() {
  MambaForComposite<sizes, Policies...> model({.n_layers = 2, .gamma = 1.0, .seed = 3});
  const task::CompositeFunction task({.train_samples = 40});
  Trainer trainer(model, task, {.batch_size = 20, .schedule = {.warmup = 1, .total = 2}});
  while (!trainer.finished()) trainer.step();
  const std::vector<std::int32_t> ids(5 * 70, 3), lengths{70, 1, 33, 64, 8};
  model(ids, 5, lengths);
  auto state = model.initial_state(5);
  model.prefill(ids, 5, state, lengths);
  model.step(std::span(ids).first(5), state);
  const std::vector<std::uint8_t> mask(ids.size(), 1);
  model.blocked(ids, 5, mask, {}, Reading::downstream);
  model.substituted(ids, ids, 5, mask);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "beyond") {
    std::signal(SIGABRT, [](int) { std::_Exit(3); });  // CTest takes a signal for more than a failure
    float values[2 * 16] = {};
    const Rows<float, 11> rows{values, 2};
    return rows[2] == rows[3];
  }
  run<config, Mamba1>();
  run<config, Mamba1, BFloat16, ConvGate, LearnedPosition<80>>();
  run<config, Mamba2<8, 2>, double, ConvResidual>();
  run<even_config, Mamba3<of_heads>>();
  run<even_config, Mamba3<of_ranks>, BFloat16, LearnedPosition<80>>();
  std::puts("all rows were there");
}
