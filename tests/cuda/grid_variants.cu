// Every two answers of convolution, position, residual and mixer together, over the grid, in double beside the CPU.
#include "support/cuda.hpp"

using namespace mamba;

namespace {

inline constexpr Config config{.vocab_size = 11, .d_model = 8, .d_state = 5};

template <class... Policies>
void check() {
  support::check_lengths<config, CudaGrid, double, Policies...>(1e-12);
}

}  // namespace

TEST_CASE("CUDA grid: the variants are as on the CPU") {
  support::need_backend();
  check<Mamba1, LearnedConv, NoPosition, NoConvResidual>();
  check<Mamba2<4, 2>, OnesConv, NoPosition, ConvResidual>();
  check<Mamba1, FrozenOnesConv, NoPosition, ConvGate>();
  check<Mamba2<4, 2>, LearnedConv, NoPosition, LinearConvResidual>();
  check<Mamba2<4, 2, 1>, LearnedConv, NoPosition, NoConvResidual>();
  check<Mamba2<4, 2>, OnesConv, LearnedPosition<21>, NoConvResidual>();
  check<Mamba1, FrozenOnesConv, LearnedPosition<21>, ConvResidual>();
  check<Mamba2<4, 2>, LearnedConv, LearnedPosition<21>, ConvGate>();
  check<Mamba1, OnesConv, LearnedPosition<21>, LinearConvResidual>();
  check<Mamba1, FrozenOnesConv, SinusoidalPosition, NoConvResidual>();
  check<Mamba2<4, 2>, LearnedConv, SinusoidalPosition, ConvResidual>();
  check<Mamba1, OnesConv, SinusoidalPosition, ConvGate>();
  check<Mamba2<4, 2>, FrozenOnesConv, SinusoidalPosition, LinearConvResidual>();
  check<Mamba1, UntiedHead>();
}
