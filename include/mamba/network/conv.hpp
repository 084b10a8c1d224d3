// The mixers' convolution with its SiLU, under every policy: is the kernel learned, and what bypasses the convolution?
//
// v = conv(x), c = silu(v), and the rest of the block uses u = c, c + x, c * x or c + W x (specification, section 10).
#pragma once

#include <type_traits>

#include <mamba/core/macros.hpp>
#include <mamba/core/policies.hpp>
#include <mamba/core/views.hpp>
#include <mamba/network/linear.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba::network {

// What each residual policy means; one without a line here does not compile.
enum class Bypass {
  none,      // c
  identity,  // c + x
  gate,      // c * x
  linear,    // c + W x
};
template <class ConvResidual_>
constexpr Bypass bypass_of() {
  if constexpr (std::is_same_v<ConvResidual_, NoConvResidual>) return Bypass::none;
  else if constexpr (std::is_same_v<ConvResidual_, ConvResidual>) return Bypass::identity;
  else if constexpr (std::is_same_v<ConvResidual_, ConvGate>) return Bypass::gate;
  else if constexpr (std::is_same_v<ConvResidual_, LinearConvResidual>) return Bypass::linear;
  else
    static_assert(sizeof(ConvResidual_) == 0,
                  "mamba: what this residual policy means is written nowhere (network/conv.hpp, bypass_of)");
}

// mixer.conv1d.weight (channels, 1, taps) and .bias (channels), then mixer.residual_proj.weight (channels, channels)
// where the policy has it.
template <class A>
constexpr auto conv_parameters(int channels, int taps) {
  using Kernel = typename A::ConvKernel;
  const double bound = 1 / table_sqrt(taps);
  const Parameter weight{.name = "mixer.conv1d.weight",
                         .role = Role::convolution,
                         .rank = 3,
                         .shape = {channels, 1, taps},
                         .law = Law::uniform,
                         .scale = bound,
                         .derived = Derived::transpose};
  const Parameter bias = vector_parameter("mixer.conv1d.bias", Role::convolution_bias, channels, Law::uniform, bound);
  const ParameterTable<2> conv{Kernel::learned_weight ? weight : frozen(weight, 1),
                               Kernel::learned_bias ? bias : frozen(bias, 0)};
  if constexpr (bypass_of<typename A::ConvResidual>() == Bypass::linear)
    return join(conv, ParameterTable<1>{matrix_parameter("mixer.residual_proj.weight", Role::projection, channels,
                                                         channels, Law::uniform, 1 / table_sqrt(channels))});
  else return conv;
}

// Whether the backward pass reads v whatever the backend has in one piece.
template <class A>
inline constexpr bool keeps_conv_output = bypass_of<typename A::ConvResidual>() == Bypass::gate;

// Where it costs more to store v and read it again than to compute it twice, a backend has the convolution with its
// SiLU, and their gradients, in one piece each. The gate needs v itself.
template <class A, class Backend>
inline constexpr bool fuses_convolution = Backend::fuses_convolution && !keeps_conv_output<A>;

// v (T, C), u (T, C) <- the convolution of x (T, C) and what the rest of the block uses.
MAMBA_COMPOSITION
template <class A, class Backend, class S, class T, int C, class LayerWeights>
MAMBA_HOST_DEVICE void conv_forward(Backend& be, Rows<S, C> v, Rows<S, C> u, Rows<const S, C> x, Sequences sequences,
                                    LayerWeights w, T* history) {
  constexpr Bypass bypass = bypass_of<typename A::ConvResidual>();
  const auto weight = w.template get<"mixer.conv1d.weight">();
  const auto bias = w.template get<"mixer.conv1d.bias">();
  if constexpr (fuses_convolution<A, Backend>) {
    causal_conv_silu(be, u, x, sequences, weight, bias, history);
  } else {
    causal_conv(be, v, x, sequences, weight, bias, history);
    if constexpr (bypass == Bypass::gate) gate(be, u, x, in(v));
    else silu(be, u, in(v));
  }
  if constexpr (bypass == Bypass::identity) add(be, u, in(u), x);
  if constexpr (bypass == Bypass::linear) linear<Write::add>(be, u, x, w.template get<"mixer.residual_proj.weight">());
}

// dx (T, C) <- the gradient with respect to x, dw += those of the learned parameters; du (T, C) is used up, and so is v
// where it is not kept. passed: what it has of the history (mixer.hpp).
MAMBA_COMPOSITION
template <class A, class Backend, class S, class T, int C, class LayerGradients, class LayerWeights, class Passed>
MAMBA_HOST_DEVICE MAMBA_OUT_OF_LINE void conv_backward(Backend& be, Rows<T, C> dx, LayerGradients dw, Rows<T, C> du,
                                                       Rows<S, C> v, Rows<const S, C> x, Sequences sequences,
                                                       LayerWeights w, Passed passed) {
  using Kernel = typename A::ConvKernel;
  constexpr Bypass bypass = bypass_of<typename A::ConvResidual>();
  // dx <- the part that bypasses the convolution.
  constexpr Write rest = bypass == Bypass::none ? Write::set : Write::add;
  if constexpr (bypass == Bypass::gate) {
    gate_backward(be, dx, du, in(du), x, in(v));
  } else {
    if constexpr (bypass == Bypass::identity) copy(be, dx, in(du));
    if constexpr (bypass == Bypass::linear) {
      product_gradients<Write::set>(be, dx, dw.template get<"mixer.residual_proj.weight">(), in(du), x,
                                    w.template get<"mixer.residual_proj.weight">());
    }
  }
  const auto weight = w.template get<"mixer.conv1d.weight">();
  const auto dweight = dw.template get<"mixer.conv1d.weight">();
  const auto dbias = dw.template get<"mixer.conv1d.bias">();
  if constexpr (fuses_convolution<A, Backend> && !Passed::passes) {
    causal_conv_silu_backward<rest, Kernel::learned_weight, Kernel::learned_bias>(
        be, dx, dweight, dbias, in(du), x, sequences, weight, w.template get<"mixer.conv1d.bias">());
  } else {
    if constexpr (fuses_convolution<A, Backend>)
      causal_conv(be, v, x, sequences, weight, w.template get<"mixer.conv1d.bias">(), passed.from);
    if constexpr (bypass != Bypass::gate) silu_backward(be, du, in(du), in(v));
    if constexpr (Kernel::learned_weight) causal_conv_weight_backward(be, dweight, in(du), x, sequences);
    if constexpr (Kernel::learned_bias) add_bias_backward(be, dbias, in(du));
    causal_conv_backward<rest>(be, dx, in(du), sequences, weight);
    if constexpr (Passed::passes) {
      if constexpr (Kernel::learned_weight)
        causal_conv_history_weight_backward(be, dweight, in(du), passed.from, sequences);
      if (passed.gradient) causal_conv_history_backward(be, dx, passed.gradient, in(du), sequences, weight);
    }
  }
}

}  // namespace mamba::network
