// Counts what the global operator new hands out during steps of training, of decoding and through states: after the
// first, nothing.
#include <cstdio>
#include <vector>

#include <mamba/composite.hpp>

#include "support/count_allocations.hpp"

inline constexpr mamba::Mamba3Config of_ranks{.headdim = 8, .rank = 2, .output_norm = true};
inline constexpr mamba::Config config{.d_model = 16, .d_state = 16};

// shards: how many parts a batch is cut into.
template <class... Policies>
long allocations_in_steps(int shards = 1) {
  mamba::MambaForComposite<config, Policies...> model({.n_layers = 2, .gamma = 1.0, .seed = 1, .threads = 3});
  const mamba::task::CompositeFunction task({.train_samples = 640});
  mamba::Trainer trainer(
      model, task,
      {.batch_size = 256, .schedule = {.warmup = 0, .total = 9}, .schedule_in_steps = true, .shards = shards});
  trainer.step();
  const long before = support::allocations;
  while (!trainer.finished()) trainer.step();  // whole batches and the smaller last ones
  const long training = support::allocations - before;

  auto state = model.initial_state(3);
  const std::int32_t tokens[] = {1, 2, 3};
  model.step(tokens, state);
  model.next_tokens(tokens, 3, state);
  const long before_decoding = support::allocations;
  for (int t = 0; t < 20; ++t) model.step(tokens, state), model.next_tokens(tokens, 3, state, {.temperature = 1});
  const long decoding = support::allocations - before_decoding;

  const std::vector<std::int32_t> ids(3 * 40, 5), labels(3, 7);
  auto of_state = model.initial_state(3);
  const auto start = state;
  const auto piece = [&] {
    state = start;
    model.loss_and_gradients(ids, labels, state, {.of_state = &of_state, .accumulate = true});
    model.gradients_through(ids, 3, state, {.of_state = &of_state});
  };
  piece();
  const long before_pieces = support::allocations;
  for (int t = 0; t < 5; ++t) piece();
  const long pieces = support::allocations - before_pieces;
  std::printf("%ld allocations in training steps, %ld in decoding steps, %ld in pieces after the first\n", training,
              decoding, pieces);
  return training + decoding + pieces;
}

int main() {
  const long count = allocations_in_steps<>() + allocations_in_steps<>(8) + allocations_in_steps<mamba::Mamba2<8>>() +
                     allocations_in_steps<mamba::BFloat16>() +
                     allocations_in_steps<mamba::BFloat16, mamba::Mamba2<8>>() +
                     allocations_in_steps<mamba::Mamba3<of_ranks>>();
  return count == 0 ? 0 : 1;
}
