#include <mamba/composite.hpp>

inline constexpr mamba::Config config{.vocab_size = 10, .d_model = 8, .d_state = 4};
double loss_elsewhere(mamba::MambaForComposite<config>& model);

int main() {
  mamba::MambaForComposite<config> model({.n_layers = 1});
  const std::int32_t ids[] = {1, 2, 3}, label[] = {4};
  return model.loss_and_gradients(ids, label) == loss_elsewhere(model) ? 0 : 1;
}
