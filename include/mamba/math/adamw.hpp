// One AdamW update of one number (Loshchilov and Hutter 2019; specification, section 9).
#pragma once

#include <cmath>

#include <mamba/core/macros.hpp>

namespace mamba::math {

// What all parameters of a step share, computed in double.
struct AdamWStep {
  double shrink;  // 1 - lr weight_decay
  double beta1, beta2;
  double step_size;     // lr / (1 - beta1^s)
  double inverse_root;  // 1 / sqrt(1 - beta2^s)
  double eps;

  static AdamWStep at(long step, double lr, double beta1, double beta2, double eps, double weight_decay) {
    const auto s = static_cast<double>(step);
    return {1 - lr * weight_decay, beta1, beta2, lr / (1 - std::pow(beta1, s)), 1 / std::sqrt(1 - std::pow(beta2, s)), eps};
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
