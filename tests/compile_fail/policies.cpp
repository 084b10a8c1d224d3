// With no CASE_ defined this compiles; each CASE_ must not, and must say why.
#include <mamba/composite.hpp>

using namespace mamba;

inline constexpr Config config{};
struct NotAPolicy {};

#if defined(CASE_two_scalars)
using Model = MambaForComposite<config, float, double>;
#elif defined(CASE_two_mixers)
using Model = MambaForComposite<config, Mamba1, Cpu, Mamba1>;
#elif defined(CASE_two_kernels)
using Model = MambaLMHeadModel<config, OnesConv, LearnedConv>;
#elif defined(CASE_two_backends)
using Model = MambaForComposite<config, Cpu, Cpu>;
#elif defined(CASE_no_policy)
using Model = MambaForComposite<config, NotAPolicy>;
#elif defined(CASE_long_double)
using Model = MambaForComposite<config, long double>;
#elif defined(CASE_zero_size)
inline constexpr Config empty{.d_state = 0};
using Model = MambaForComposite<empty>;
#else
using Model = MambaForComposite<config>;
#endif

#if defined(CASE_unknown_parameter)
constexpr auto offset = Lookup<network::Tables<Resolve<config>>::layer, "mixer.misspelt">::offset();
#endif

int main() { Model model({.n_layers = 1}); }
