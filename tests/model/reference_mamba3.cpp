// Mamba-3 against the reference numbers (float64 PyTorch).
#include "support/parity.hpp"

using namespace mamba;

namespace {

inline constexpr Config composite_config{};
inline constexpr Config heads_config{.vocab_size = 40, .d_model = 32, .d_state = 16};
inline constexpr Config text_config{.vocab_size = 64, .d_model = 32, .d_state = 16};
inline constexpr Config norm_config{.vocab_size = 40, .d_model = 32, .d_state = 32};
inline constexpr Config mimo_config{.vocab_size = 40, .d_model = 32, .d_state = 64};
inline constexpr Config old_config{.vocab_size = 24, .d_model = 16, .d_state = 16};
inline constexpr Mamba3Config of_heads{.headdim = 16, .ngroups = 2, .rotates_all = true}, of_text{.headdim = 16},
    of_norm{.headdim = 32, .output_norm = true}, of_old{.headdim = 16, .softplus_rate = true};
inline constexpr Mamba3Config of_mimo{.headdim = 32, .rank = 4},
    of_mimo_norm{.headdim = 32, .rank = 2, .rotates_all = true, .output_norm = true};

template <template <Config, class...> class Model, Config config, class Mixer>
void check(const char* name) {
  support::check_parity<Model<config, support::Backend, Mixer>>(name);
  support::check_parity<Model<config, support::Backend, double, Mixer>>(name);
}

}  // namespace

TEST_CASE("Mamba-3 reproduces the reference: composite sizes and training", "[long]") {
  check<MambaForComposite, composite_config, Mamba3<>>("mamba3_composite");
  check<MambaForComposite, composite_config, Mamba3<>>("mamba3_composite_gamma05");
  support::check_training<MambaForComposite<composite_config, support::Backend, Mamba3<>>>("train_mamba3", 5e-6);
  support::check_training<MambaForComposite<composite_config, support::Backend, double, Mamba3<>>>("train_mamba3",
                                                                                                   1e-9);
}

TEST_CASE("Mamba-3 reproduces the reference: heads and groups, a longer text, norm, the rates of older files") {
  check<MambaForComposite, heads_config, Mamba3<of_heads>>("mamba3_heads");
  check<MambaLMHeadModel, text_config, Mamba3<of_text>>("mamba3_lm_130");
  check<MambaForComposite, norm_config, Mamba3<of_norm>>("mamba3_norm");
  check<MambaForComposite, old_config, Mamba3<of_old>>("mamba3_softplus");
}

TEST_CASE("Mamba-3 reproduces the reference: several inputs and outputs of a head") {
  check<MambaForComposite, mimo_config, Mamba3<of_mimo>>("mamba3_mimo");
  check<MambaForComposite, norm_config, Mamba3<of_mimo_norm>>("mamba3_mimo_norm");
}
