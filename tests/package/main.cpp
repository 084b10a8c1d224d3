#include <mamba/language_model.hpp>

inline constexpr mamba::Config config{.vocab_size = 16, .d_model = 8, .d_state = 4};

int main() {
  mamba::MambaLMHeadModel<config> model({.n_layers = 1});
  const std::int32_t ids[] = {1, 2, 3, 4};
  return model.logits(ids, 1).rows() == 4 ? 0 : 1;
}
