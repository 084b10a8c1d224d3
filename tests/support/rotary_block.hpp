// Mamba-3's primitives by one thread block, for tests beside the CPU's.
#pragma once

#include <mamba/cuda/block/backend.hpp>

#include "support/rotary_passes.hpp"
#include "support/rotary_rows_passes.hpp"

namespace support::rotary {

template <class Arguments>
__global__ void __launch_bounds__(cuda::Block::threads, 1) run_rotary_ssd(Arguments k) {
  cuda::Block be{k.global};
  cuda::rotary_ssd(be, typename Arguments::Sizes{}, k.y, k.boundaries, k.state, k.delta, k.log_decay, k.mu, k.turns,
                   k.xbc, k.sequences, k.w, BlockedRows{k.mask});
}
template <class Arguments>
__global__ void __launch_bounds__(cuda::Block::threads, 1) run_rotary_ssd_backward(Arguments k) {
  cuda::Block be{k.global};
  cuda::rotary_ssd_backward(be, typename Arguments::Sizes{}, k.ddelta, k.dlog_decay, k.dmu, k.dangles, k.dxbc, k.dw,
                            k.dy, static_cast<const typename Arguments::Scalar*>(k.boundaries), k.delta, k.log_decay,
                            k.mu, k.turns, k.xbc, k.sequences, k.w);
}
template <class Arguments>
__global__ void __launch_bounds__(cuda::Block::threads, 1) run_trapezoid(Arguments k) {
  cuda::Block be{};
  cuda::trapezoid<Arguments::softplus_rate>(be, typename Arguments::Sizes{}, k.log_decay, k.mu, k.turns, k.history,
                                            k.delta, k.raw, k.sequences);
}
template <class Arguments>
__global__ void __launch_bounds__(cuda::Block::threads, 1) run_trapezoid_backward(Arguments k) {
  cuda::Block be{};
  cuda::trapezoid_backward<Arguments::softplus_rate>(be, typename Arguments::Sizes{}, k.draw, k.ddelta, k.dlog_decay,
                                                     k.dmu, k.dangles, k.delta, k.raw, k.sequences);
}

template <class Arguments>
__global__ void __launch_bounds__(cuda::Block::threads, 1) run_ranked_gate(Arguments k) {
  cuda::Block be{};
  cuda::ranked_gate<Arguments::normed>(be, k.o, k.y, k.z, k.mimo_z, k.mimo_o, k.norm);
}
template <class Arguments>
__global__ void __launch_bounds__(cuda::Block::threads, 1) run_ranked_gate_backward(Arguments k) {
  cuda::Block be{};
  cuda::ranked_gate_backward<Arguments::normed>(be, k.dy, k.dz, k.dmimo_z, k.dmimo_o, k.dnorm, k.d_o, k.y, k.z,
                                                k.mimo_z, k.mimo_o, k.norm);
}

struct OneBlock {
  using Memory = cuda::BlockMemory;
  template <class T, class Shape>
  static void run(const ScanArguments<T, Shape>& arguments, bool backward) {
    using Arguments = ScanArguments<T, Shape>;
    support::launch<T>(backward ? run_rotary_ssd_backward<Arguments> : run_rotary_ssd<Arguments>, arguments);
  }
  template <class T, class Shape, bool softplus_rate>
  static void run(const TrapezoidArguments<T, Shape, softplus_rate>& arguments, bool backward) {
    using Arguments = TrapezoidArguments<T, Shape, softplus_rate>;
    support::launch<T>(backward ? run_trapezoid_backward<Arguments> : run_trapezoid<Arguments>, arguments);
  }
  template <class T, int H, int P, int R, bool normed>
  static void run(const GateArguments<T, H, P, R, normed>& arguments, bool backward) {
    using Arguments = GateArguments<T, H, P, R, normed>;
    support::launch<T>(backward ? run_ranked_gate_backward<Arguments> : run_ranked_gate<Arguments>, arguments);
  }
};

}  // namespace support::rotary
