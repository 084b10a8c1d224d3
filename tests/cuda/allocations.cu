// Counts what steps on the GPU take of the host's memory and of the device's: after the first, nothing.
#include <algorithm>
#include <cstdio>
#include <vector>

#include <mamba/composite.hpp>

#include "support/count_allocations.hpp"

inline constexpr mamba::Config config{.d_model = 16, .d_state = 16};

template <class... Policies>
long allocations_in_steps(const char* what) {
  mamba::MambaForComposite<config, Policies...> model({.n_layers = 2, .gamma = 1.0, .seed = 1});
  const mamba::task::CompositeFunction task({.train_samples = 640});
  mamba::Trainer trainer(model, task,
                         {.batch_size = 256, .schedule = {.warmup = 0, .total = 9}, .schedule_in_steps = true});
  const auto count = [] { return support::allocations.load() + mamba::cuda::device_allocations().load(); };
  trainer.step();
  const long before = count();
  while (trainer.steps() + 1 < trainer.total_steps())
    trainer.step();  // behind the last one the model is asked for logits, as never before
  const long training = count() - before;

  std::vector<std::int32_t> ids(256 * 8, 5), labels(256, 7);
  mamba::AdamW optimizer(model, {.lr = 1e-3});
  const auto step = [&] { model.loss_and_gradients(ids, labels), mamba::clip_grad_norm(model, 1), optimizer.step(); };
  step();
  const long before_own = count();
  for (int s = 0; s < 5; ++s) step();
  const long own = count() - before_own;

  auto state = model.initial_state(3);
  const std::int32_t tokens[] = {1, 2, 3};
  model.step(tokens, state);
  const long before_decoding = count();
  for (int t = 0; t < 20; ++t) model.step(tokens, state);
  long decoding = count() - before_decoding;
  auto saved = state;  // speculative decoding: forward, and back
  for (int t = 0; t < 4; ++t) {
    if (t == 1) decoding -= count();
    saved = state;
    model.step(tokens, state), model.step(tokens, state);
    state = saved;
  }
  decoding += count();
  auto many = model.initial_state(12);
  std::vector<std::int32_t> next(12, 1);
  const auto choose = [&] {
    const auto& chosen = model.next_tokens(next, 12, many, {.temperature = 1});
    std::copy(chosen.begin(), chosen.end(), next.begin());
  };
  choose();
  const long before_choosing = count();
  for (int t = 0; t < 20; ++t) choose();
  decoding += count() - before_choosing;
  std::printf(
      "%s: %ld allocations in training steps, %ld in steps of a loop of one's own, %ld in decoding steps after the "
      "first\n",
      what, training, own, decoding);
  return training + own + decoding;
}

int main() {
  if (mamba::cuda::device_count() == 0) {
    std::printf("no CUDA device\n");
    return 77;
  }
  using namespace mamba;
  const long all = allocations_in_steps<Cuda>("block") + allocations_in_steps<Cuda, Mamba2<8>>("block, Mamba-2") +
                   allocations_in_steps<CudaGrid>("grid") + allocations_in_steps<CudaGrid, Mamba2<8>>("grid, Mamba-2") +
                   allocations_in_steps<CudaGrid, BFloat16>("grid, 16 bits") +
                   allocations_in_steps<CudaGrid, BFloat16, Mamba2<8>>("grid, 16 bits, Mamba-2");
  return all == 0 ? 0 : 1;
}
