// The mixers' convolution: its parameters under each kernel policy and its backward pass.
#pragma once

#include <mamba/core/macros.hpp>
#include <mamba/core/parameters.hpp>
#include <mamba/core/policies.hpp>
#include <mamba/core/tensor.hpp>

namespace mamba::network {

// mixer.conv1d.weight (channels, 1, taps) and .bias (channels).
template <ConvKernelPolicy Kernel>
constexpr Parameter conv_weight(int channels, int taps) {
  const Parameter weight{.name = "mixer.conv1d.weight",
                         .rank = 3,
                         .shape = {channels, 1, taps},
                         .law = Law::uniform,
                         .scale = 1 / table_sqrt(taps),
                         .derived = Derived::transpose};
  return Kernel::learned_weight ? weight : frozen(weight, 1);
}
template <ConvKernelPolicy Kernel>
constexpr Parameter conv_bias(int channels, int taps) {
  const Parameter bias = vector_parameter("mixer.conv1d.bias", channels, Law::uniform, 1 / table_sqrt(taps));
  return Kernel::learned_bias ? bias : frozen(bias, 0);
}

// dx (T, E) <- the gradient through the convolution, dw += those of its learned parameters; dv (T, E), x (T, E).
MAMBA_COMPOSITION
template <ConvKernelPolicy Kernel, class Backend, class T, int E, class LayerGradients, class LayerWeights>
MAMBA_HOST_DEVICE void conv_backward(Backend& be, Rows<T, E> dx, LayerGradients dw, Rows<const T, E> dv, Rows<const T, E> x, Sequences sequences,
                                     LayerWeights w) {
  if constexpr (Kernel::learned_weight) causal_conv_weight_backward(be, dw.template get<"mixer.conv1d.weight">(), dv, x, sequences);
  if constexpr (Kernel::learned_bias) add_bias_backward(be, dw.template get<"mixer.conv1d.bias">(), dv);
  causal_conv_backward(be, dx, dv, sequences, w.template get<"mixer.conv1d.weight">());
}

}  // namespace mamba::network
