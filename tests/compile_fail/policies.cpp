// With no CASE_ defined this compiles; each CASE_ must not, and must say why.
#include <mamba/composite.hpp>

using namespace mamba;

inline constexpr Config config{};
struct NotAPolicy {};
// Answers that somebody has declared, and whose meaning is written nowhere.
struct NewPosition {
  using answers = question::Position;
  static constexpr const char* name = "new";
};
struct NewPositions : NewPosition {
  static constexpr int positions = 8;
};
struct NewResidual {
  using answers = question::ConvResidual;
  static constexpr const char* name = "new";
};
struct NewHead {
  using answers = question::Head;
  static constexpr const char* name = "new";
};
struct NewMixer {
  using answers = question::Mixer;
  static constexpr const char* name = "new";
};

#if defined(CASE_two_scalars)
using Chosen = MambaForComposite<config, float, double>;
#elif defined(CASE_two_mixers)
using Chosen = MambaForComposite<config, Mamba1, Cpu, Mamba1>;
#elif defined(CASE_two_kernels)
using Chosen = MambaLMHeadModel<config, OnesConv, LearnedConv>;
#elif defined(CASE_two_backends)
using Chosen = MambaForComposite<config, Cpu, Cpu>;
#elif defined(CASE_cuda_without_nvcc)
using Chosen = MambaForComposite<config, Cuda>;
#elif defined(CASE_two_positions)
using Chosen = MambaForComposite<config, LearnedPosition<8>, SinusoidalPosition>;
#elif defined(CASE_two_residuals)
using Chosen = MambaWithResidual<config, ConvGate>;
#elif defined(CASE_two_heads)
using Chosen = MambaLMHeadModel<config, UntiedHead, TiedHead>;
#elif defined(CASE_headdim)
using Chosen = MambaForComposite<config, Mamba2<48>>;
#elif defined(CASE_mamba3_kernel)
using Chosen = MambaForComposite<config, Mamba3<>, OnesConv>;
#elif defined(CASE_mamba3_bypass)
using Chosen = MambaForComposite<config, Mamba3<>, ConvResidual>;
#elif defined(CASE_mamba3_pairs)
inline constexpr Config odd{.d_state = 5};
using Chosen = MambaForComposite<odd, Mamba3<>>;
#elif defined(CASE_mamba3_rank)
inline constexpr Mamba3Config negative{.rank = -1};
using Chosen = MambaForComposite<config, Mamba3<negative>>;
#elif defined(CASE_ngroups)
using Chosen = MambaForComposite<config, Mamba2<16, 3>>;
#elif defined(CASE_no_policy)
using Chosen = MambaForComposite<config, NotAPolicy>;
#elif defined(CASE_new_position)
using Chosen = MambaForComposite<config, NewPosition>;
#elif defined(CASE_new_positions)
using Chosen = MambaForComposite<config, NewPositions>;
#elif defined(CASE_new_residual)
using Chosen = MambaForComposite<config, NewResidual>;
#elif defined(CASE_new_head)
using Chosen = MambaForComposite<config, NewHead>;
#elif defined(CASE_new_mixer)
using Chosen = MambaForComposite<config, NewMixer>;
#elif defined(CASE_long_double)
using Chosen = MambaForComposite<config, long double>;
#elif defined(CASE_zero_size)
inline constexpr Config empty{.d_state = 0};
using Chosen = MambaForComposite<empty>;
#elif defined(CASE_int8_gradients) || defined(CASE_int8_optimiser)
using Chosen = MambaLMHeadModel<config, Int8Weights>;
#else
using Chosen = MambaForComposite<config>;
#endif

#if defined(CASE_unknown_parameter)
constexpr auto offset = Lookup<network::Tables<Resolve<config>>::layer, "mixer.misspelt">::offset;
#endif

int main() {
  Chosen model({.n_layers = 1});
#if defined(CASE_int8_gradients)
  model.loss_and_gradients({}, 1);
#elif defined(CASE_int8_optimiser)
  AdamW optimiser(model);
#endif
}
