// One AdamW update of one number (Loshchilov and Hutter 2019; specification, section 9).
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <mamba/core/macros.hpp>

namespace mamba::math {

// What all parameters of a step share, computed in double.
struct AdamWStep {
  double shrink;  // 1 - lr weight_decay
  double beta1, beta2;
  double step_size;     // lr / (1 - beta1^s)
  double inverse_root;  // 1 / sqrt(1 - beta2^s)
  double eps;

  // For numbers of type T: no factor is beyond its range and eps is never zero in it, so that what has no gradient,
  // such as what pads a row, stays zero under every option (0 / 0 and 0 times infinity are not).
  template <class T>
  static AdamWStep at(long step, double lr, double beta1, double beta2, double eps, double weight_decay) {
    constexpr auto least = static_cast<double>((std::numeric_limits<T>::min)()),
                   most = static_cast<double>((std::numeric_limits<T>::max)());
    const auto s = static_cast<double>(step);
    return {std::clamp(1 - lr * weight_decay, -most, most),
            beta1,
            beta2,
            (std::min)(lr / (1 - std::pow(beta1, s)), most),
            1 / std::sqrt(1 - std::pow(beta2, s)),
            std::clamp(eps, least, most)};
  }
};

MAMBA_COMPOSITION
template <class V>
MAMBA_HOST_DEVICE MAMBA_INLINE void adamw(V& parameter, V& mean, V& square, V gradient, const AdamWStep& k) {
  using std::sqrt;
  mean = V(k.beta1) * mean + V(1 - k.beta1) * gradient;
  square = V(k.beta2) * square + V(1 - k.beta2) * gradient * gradient;
  parameter = parameter * V(k.shrink) - V(k.step_size) * mean / (sqrt(square) * V(k.inverse_root) + V(k.eps));
}

}  // namespace mamba::math
