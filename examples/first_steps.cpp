// A training loop by hand: samples, loss and gradients, clipping, AdamW.
#include <cstdio>
#include <mamba/composite.hpp>
#include <vector>

inline constexpr mamba::Config config{.vocab_size = 100, .d_model = 32, .d_state = 128, .d_conv = 4, .expand = 2};

int main() {
  mamba::MambaForComposite<config> model({.n_layers = 2, .gamma = 1.0, .seed = 42});
  mamba::AdamW optimizer(model, {.lr = 1e-3});
  const mamba::task::CompositeFunction task;
  std::vector<std::int32_t> ids(256 * 8), labels(256);
  std::int64_t sample = 0;
  double loss = 0;
  for (int step = 0; step < 100; ++step) {
    for (std::size_t i = 0; i < 256; ++i) labels[i] = task.train_sample(sample++, &ids[8 * i]);
    loss = model.loss_and_gradients(ids, labels);
    mamba::clip_grad_norm(model, 1.0);
    optimizer.step();
    if (step % 10 == 0) std::printf("step %d: loss %.3f\n", step, loss);
  }
  mamba::save(model, "model.safetensors");
  return loss < 4.55 ? 0 : 1;  // it has begun to learn: a guess costs ln(100) = 4.605
}
