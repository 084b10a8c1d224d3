// A loss of your own: the squared error of the last token's logits against a one-hot vector.
#include <cstdio>
#include <vector>

#include <mamba/composite.hpp>

inline constexpr mamba::Config config{.vocab_size = 100, .d_model = 32, .d_state = 16};

int main() {
  constexpr int batch = 64;
  mamba::MambaForComposite<config> model({.n_layers = 2, .seed = 1});
  mamba::AdamW optimizer(model, {.lr = 1e-3});
  const mamba::task::CompositeFunction task;
  std::vector<std::int32_t> ids(batch * 8), labels(batch);
  for (std::size_t i = 0; i < batch; ++i) labels[i] = task.train_sample(static_cast<std::int64_t>(i), &ids[8 * i]);

  // Called for some sequences at once, perhaps from several threads: returns their share of the loss and writes their
  // gradient.
  const auto squared_error = [&](auto logits, int first, auto gradient) {
    double share = 0;
    for (std::ptrdiff_t i = 0; i < logits.rows(); ++i)
      for (std::ptrdiff_t v = 0; v < logits.cols(); ++v) {
        const double error =
            static_cast<double>(logits(i, v)) - (v == labels[static_cast<std::size_t>(first + i)] ? 1 : 0);
        gradient(i, v) = static_cast<float>(2 * error / batch);
        share += error * error / batch;
      }
    return share;
  };
  const double first = model.loss_and_gradients(ids, batch, squared_error);
  for (int step = 0; step < 30; ++step) {
    optimizer.step();
    model.loss_and_gradients(ids, batch, squared_error);
  }
  const double last = model.loss_and_gradients(ids, batch, squared_error);
  std::printf("squared error: %.4f, after 30 steps %.4f\n", first, last);
  return last < 0.98 * first ? 0 : 1;
}
