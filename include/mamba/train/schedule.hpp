// The learning rate over a run: linear warm-up, then half a cosine (specification, section 9).
#pragma once

#include <cmath>
#include <concepts>
#include <numbers>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>

namespace mamba {

// Counted in units that may be epochs (the paper's protocol) or steps.
struct Schedule {
  double initial_lr = 1e-5, lr = 2.5e-4, final_lr = 1e-5;
  long warmup = 10, total = 200;

  // The rate at a time in units, from 0 on; from `total` on it stays at final_lr.
  double at(double time) const {
    const auto until = static_cast<double>(total), warm = static_cast<double>(warmup);
    if (time >= until) return final_lr;
    if (time < warm) return initial_lr + (lr - initial_lr) * time / warm;
    const double progress = (time - warm) / (until - warm);
    return final_lr + 0.5 * (lr - final_lr) * (1 + std::cos(std::numbers::pi * progress));
  }
  template <std::integral Unit>
  double at(Unit unit) const {
    return at(static_cast<double>(unit));
  }

  // Throws Error on rates that are negative or not finite, or a warm-up that does not fit.
  void check() const {
    for (const double rate : {initial_lr, lr, final_lr})
      require(is_finite(rate) && rate >= 0, "a learning rate must be a number from 0 on; given ", rate);
    require(total >= 1, "a run lasts at least one epoch or step; given ", total);
    require(warmup >= 0 && warmup <= total, "the warm-up of ", warmup, " does not fit into a run of ", total);
  }
};

}  // namespace mamba
