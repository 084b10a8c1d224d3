#include <cstdio>
#include <mamba/composite.hpp>

inline constexpr mamba::Config config{.vocab_size = 100, .d_model = 32, .d_state = 128, .d_conv = 4, .expand = 2};

int main() {
  mamba::MambaForComposite<config> model({.n_layers = 2, .gamma = 1.0, .seed = 42});
  const mamba::task::CompositeFunction task;
  mamba::Trainer trainer(model, task, {.schedule = {.lr = 1e-3, .total = 100}, .schedule_in_steps = true});
  while (!trainer.finished()) trainer.run(10), std::printf("%ld: %.3f\n", trainer.steps(), trainer.take_mean_loss());
  mamba::save(model, "model.safetensors");
}
