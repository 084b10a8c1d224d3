// A task of your own, trained by Trainer: which of two tokens came more often?
#include <cstdio>
#include <vector>

#include <mamba/composite.hpp>

inline constexpr mamba::Config config{.vocab_size = 8, .d_model = 16, .d_state = 8};

struct Majority {
  static constexpr int length = 7, vocab_size = 8;

  std::int64_t train_samples() const { return 4096; }
  // Writes sample number `index`, a function of it alone, to ids (length) and returns its label.
  std::int32_t train_sample(std::int64_t index, std::int32_t* ids) const {
    int ones = 0;
    for (int t = 0; t < length; ++t) ones += ids[t] = static_cast<std::int32_t>(index * 2654435761 >> (8 + 3 * t) & 1);
    return ones > length / 2 ? 1 : 0;
  }
};

int main() {
  mamba::MambaForComposite<config> model({.n_layers = 1, .seed = 1});
  const Majority task;  // must outlive the trainer, as the model must
  mamba::Trainer trainer(model, task, {.batch_size = 64, .schedule = {.lr = 1e-2, .warmup = 1, .total = 4}});
  while (!trainer.finished()) {
    trainer.run(64);
    std::printf("epoch %.0f: mean loss %.4f\n", trainer.epochs(), trainer.take_mean_loss());
  }
  return trainer.last_loss() < 0.2 ? 0 : 1;
}
