// The losses that the library brings; they run where the model runs.
#pragma once

#include <mamba/core/macros.hpp>

namespace mamba {

// Softmax cross-entropy of the readout rows over the first `classes` columns, each weighted by `weight`.
struct CrossEntropy {
  const int* labels;  // one for each readout row of the call
  int classes;
  double weight;

  MAMBA_COMPOSITION
  template <class Backend, class Gradient, class Logits>
  MAMBA_HOST_DEVICE double operator()(Backend& be, Gradient dlogits, Logits logits, int first) const {
    return cross_entropy(be, dlogits, logits, labels + first, classes, weight);
  }
};

}  // namespace mamba
