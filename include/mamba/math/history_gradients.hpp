// What the inputs before and behind a sequence add to the gradients of a depthwise causal convolution (specification,
// section 5, "Gradients through states"), for one channel.
#pragma once

#include <mamba/core/macros.hpp>

namespace mamba::math {

// K taps; of a sequence of `length` rows. dhistory(row) -> T&: the gradient of the K-1 inputs that the sequence leaves,
// which becomes that of those before it. dx(t) -> T& += what is left of the sequence's own; dv(t): the gradient of the
// convolution's output; tap(k).
template <class T, int K, class OfHistory, class OfInput, class OfOutput, class Tap>
MAMBA_HOST_DEVICE void history_gradients(int length, OfHistory&& dhistory, OfInput&& dx, OfOutput&& dv, Tap&& tap) {
  T of_left[K] = {};  // of these rows the first may be the history's own
  for (int row = 0; row < K - 1; ++row) {
    of_left[row] = dhistory(row);
    if (const int t = length - (K - 1) + row; t >= 0) dx(t) += of_left[row];
  }
  for (int row = 0; row < K - 1; ++row) {
    T sum = row >= length ? of_left[row - length] : T(0);
    for (int k = 0; k <= row; ++k)
      if (row - k < length) sum += tap(k) * dv(row - k);
    dhistory(row) = sum;
  }
}

// add(k, gradient) for each tap's share: tap k of row t reads the history's row t + k.
template <int K, class OfOutput, class History, class Add>
MAMBA_HOST_DEVICE void history_of_taps(int length, OfOutput&& dv, History&& history, Add&& add) {
  for (int t = 0; t < K - 1 && t < length; ++t)
    for (int k = 0; t + k < K - 1; ++k) add(k, dv(t) * history(t + k));
}

}  // namespace mamba::math
