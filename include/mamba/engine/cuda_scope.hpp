// Where a model that may run at block scope runs over the whole device all the same: a rule of sizes.
#pragma once

#include <algorithm>

#include <mamba/cuda/tuning.hpp>
#include <mamba/engine/batch.hpp>
#include <mamba/network/network.hpp>

namespace mamba {

// What a call asks for.
enum class CallKind { step, forward, gradients };

// Estimates of a layer's microseconds at either scope (cuda::ScopeTuning), from the model's and the batch's sizes
// alone.
template <class A>
struct ScopeRule {
  using Tuning = cuda::ScopeTuning;
  using Mixer = network::MixerOf<A>;
  static constexpr double parameters = static_cast<double>(network::Tables<A>::layer_size),
                          channels = Mixer::conv_channels > 0 ? Mixer::conv_channels : Mixer::widest,
                          states = A::config.d_inner() * static_cast<double>(A::config.d_state);

  // At block scope a block takes a tile, and as many blocks run at once as the device has multiprocessors.
  static double at_block_scope(double tokens, double longest, CallKind call) {
    const double rows = (std::min)(tokens, (std::max)(longest, Tuning::rows_of_tile)),
                 waves = (std::max)(1.0, tokens / (rows * Tuning::tiles_at_once));
    return share(call, Tuning::forward_of_block) * waves * rows *
           (Tuning::block_row + Tuning::block_parameter * parameters);
  }
  static double at_grid_scope(double tokens, CallKind call) {
    return share(call, Tuning::forward_of_launches) * Tuning::grid_launches +
           share(call, Tuning::forward_of_grid) * tokens *
               (Tuning::grid_channel * channels +
                (Mixer::rate_per_state ? Tuning::grid_own_state : Tuning::grid_shared_state) * states +
                Tuning::grid_parameter * parameters);
  }

  static bool prefers_grid(double tokens, double longest, CallKind call) {
    return call == CallKind::step  // a token at a time: the whole device for each product
           || at_grid_scope(tokens, call) < at_block_scope(tokens, longest, call);
  }
  static bool prefers_grid(const Batch& batch, CallKind call) {
    double tokens = 0, longest = 0;
    for (int s = 0; s < batch.batch; ++s)
      tokens += batch.length_of(s), longest = (std::max)(longest, static_cast<double>(batch.length_of(s)));
    return prefers_grid(tokens, longest, call);
  }

  // Whether trainings that draw on the device run faster over the grid.
  static bool trains_by_grid(int batch, int length) {
    return prefers_grid(static_cast<double>(batch) * length, length, CallKind::gradients);
  }

 private:
  static double share(CallKind call, double of_forward) { return call == CallKind::gradients ? 1 : of_forward; }
};

}  // namespace mamba
