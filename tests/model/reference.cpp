// Mamba-1 against the reference numbers (float64 PyTorch), on the CPU or, from cuda/, on the GPU.
#include "support/parity.hpp"

using namespace mamba;

namespace {

inline constexpr Config composite_config{};
inline constexpr Config eight_config{.max_seq_len = 8};
inline constexpr Config small_config{.vocab_size = 37, .d_model = 16, .d_state = 8, .d_conv = 3, .expand = 3};
inline constexpr Config one_token_config{.vocab_size = 8, .d_model = 24, .d_state = 16, .d_conv = 2, .expand = 1};
inline constexpr Config text_config{.vocab_size = 64, .d_model = 32, .d_state = 16};

}  // namespace

TEST_CASE("Mamba-1 reproduces the reference: composite sizes") {
  support::check_parity<MambaForComposite<composite_config, support::Backend>>("mamba1_composite");
  support::check_parity<MambaForComposite<composite_config, support::Backend, double>>("mamba1_composite");
  support::check_parity<MambaForComposite<composite_config, support::Backend>>("mamba1_composite_L5_gamma05");
  support::check_parity<MambaForComposite<composite_config, support::Backend, double>>("mamba1_composite_L5_gamma05");
  support::check_parity<MambaForComposite<eight_config, support::Backend>>("mamba1_composite");
}

TEST_CASE("Mamba-1 reproduces the reference: odd sizes, one token, a longer text") {
  support::check_parity<MambaForComposite<small_config, support::Backend>>("mamba1_small_default_init");
  support::check_parity<MambaForComposite<small_config, support::Backend, double>>("mamba1_small_default_init");
  support::check_parity<MambaForComposite<one_token_config, support::Backend>>("mamba1_one_token");
  support::check_parity<MambaForComposite<one_token_config, support::Backend, double>>("mamba1_one_token");
  support::check_parity<MambaLMHeadModel<text_config, support::Backend>>("mamba1_lm_200");
  support::check_parity<MambaLMHeadModel<text_config, support::Backend, double>>("mamba1_lm_200");
}

TEST_CASE("25 steps of clipping and AdamW reproduce the reference") {
  support::check_training<MambaForComposite<composite_config, support::Backend>>("train_mamba1", 2e-6);
  support::check_training<MambaForComposite<composite_config, support::Backend, double>>("train_mamba1", 1e-9);
}
