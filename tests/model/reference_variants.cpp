// The variants and Mamba-2 against the reference numbers (float64 PyTorch), on the CPU or, from cuda/, on the GPU.
#include "support/parity.hpp"

using namespace mamba;

namespace {

inline constexpr Config composite_config{};
inline constexpr Config variant_config{.vocab_size = 40, .d_model = 16, .d_state = 8};
inline constexpr Config heads_config{.vocab_size = 40, .d_model = 32, .d_state = 16};
inline constexpr Config text_config{.vocab_size = 64, .d_model = 32, .d_state = 16};
inline constexpr Config untied_config{.vocab_size = 201},
    untied_text_config{.vocab_size = 45, .d_model = 32, .d_state = 16};

template <class... Policies>
void check(const std::string& name) {
  support::check_parity<MambaForComposite<variant_config, support::Backend, Policies...>>(name);
#ifndef __CUDACC__  // kernels in double take long to compile; the mixers' tests have them
  support::check_parity<MambaForComposite<variant_config, support::Backend, double, Policies...>>(name);
#endif
}

}  // namespace

TEST_CASE("Mamba-1's variants reproduce the reference") {
  check<OnesConv>("mamba1_ones");
  check<LearnedPosition<8>>("mamba1_learned_pos");
  check<SinusoidalPosition>("mamba1_sinusoidal_pos");
  check<ConvResidual>("mamba1_residual");
  check<ConvGate>("mamba1_gate");
}

TEST_CASE("Mamba-2's variants reproduce the reference") {
  check<Mamba2<>, OnesConv>("mamba2_ones");
  check<Mamba2<>, LearnedPosition<8>>("mamba2_learned_pos");
  check<Mamba2<>, SinusoidalPosition>("mamba2_sinusoidal_pos");
  check<Mamba2<>, ConvResidual>("mamba2_residual");
  check<Mamba2<>, ConvGate>("mamba2_gate");
}

TEST_CASE("models whose head has a weight of its own reproduce the reference") {
  check<UntiedHead>("mamba1_untied");
  support::check_parity<MambaLMHeadModel<untied_text_config, support::Backend, Mamba2<32>, UntiedHead>>(
      "mamba2_untied_lm");
#ifndef __CUDACC__
  support::check_parity<MambaForComposite<untied_config, support::Backend, Mamba2<>, UntiedHead>>("mamba2_untied");
  support::check_parity<MambaForComposite<untied_config, support::Backend, double, Mamba2<>, UntiedHead>>(
      "mamba2_untied");
  support::check_parity<MambaLMHeadModel<untied_text_config, support::Backend, double, Mamba2<32>, UntiedHead>>(
      "mamba2_untied_lm");
#endif
}

TEST_CASE("Mamba-2 reproduces the reference: composite sizes, heads and groups, a longer text, training") {
  support::check_parity<MambaForComposite<composite_config, support::Backend, Mamba2<>>>("mamba2_composite");
  support::check_parity<MambaForComposite<composite_config, support::Backend, double, Mamba2<>>>("mamba2_composite");
  support::check_parity<MambaForComposite<heads_config, support::Backend, Mamba2<16, 2>>>("mamba2_heads");
  support::check_parity<MambaForComposite<heads_config, support::Backend, double, Mamba2<16, 2>>>("mamba2_heads");
  support::check_parity<MambaLMHeadModel<text_config, support::Backend, Mamba2<32>>>("mamba2_lm_130");
  support::check_parity<MambaLMHeadModel<text_config, support::Backend, double, Mamba2<32>>>("mamba2_lm_130");
  support::check_training<MambaForComposite<composite_config, support::Backend, Mamba2<>>>("train_mamba2", 5e-6);
  support::check_training<MambaForComposite<composite_config, support::Backend, double, Mamba2<>>>("train_mamba2",
                                                                                                   1e-9);
}
