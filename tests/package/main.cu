// Compiled, not run: all of the library that a program for GPUs uses, at both scopes.
#include <mamba/language_model.hpp>

inline constexpr mamba::Config config{.vocab_size = 16, .d_model = 8, .d_state = 4};

int main() {
  mamba::MambaLMHeadModel<config, mamba::Cuda> at_block_scope({.n_layers = 1});
  mamba::MambaLMHeadModel<config, mamba::CudaGrid> at_grid_scope({.n_layers = 1});
  const std::int32_t ids[] = {1, 2, 3, 4};
  return at_block_scope.logits(ids, 1).rows() == at_grid_scope.logits(ids, 1).rows() ? 0 : 1;
}
