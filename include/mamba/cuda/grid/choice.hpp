// The next tokens (math/choice.hpp), chosen where the logits are.
#pragma once

#include <mamba/core/config.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/math/choice.hpp>

namespace mamba::cuda {

namespace detail {

inline constexpr int choosing_threads = 1024;

// A block for each row: chosen[row] <- the token behind sequence first + row, that has had positions[row] tokens.
template <class T, int Vp>
__global__ void __launch_bounds__(choosing_threads)
    choose_tokens(int* chosen, Rows<const T, Vp> logits, const int* positions, int first, Sampling sampling,
                  int classes) {
  begin_kernel();
  using math::Choice;
  using Chooser = math::TokenChooser<T>;
  __shared__ Choice of_warps[choosing_threads / 32];
  const int row = static_cast<int>(blockIdx.x);
  const Chooser chooser(sampling, first + row, positions[row]);
  Choice own = Chooser::worst();
#pragma unroll 4
  for (int v = thread() * Chooser::at_once; v < classes; v += choosing_threads * Chooser::at_once)
    own = chooser.best(own, logits[row], v, classes);
  const auto best_of_warp = [&] {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const Choice other{__shfl_xor_sync(~0U, own.score, offset), __shfl_xor_sync(~0U, own.token, offset)};
      if (other.beats(own)) own = other;
    }
  };
  best_of_warp();
  if (lane() == 0) of_warps[warp()] = own;
  __syncthreads();
  if (warp() != 0) return;
  own = of_warps[lane()];
  best_of_warp();
  if (lane() == 0) chosen[row] = own.token;
}

}  // namespace detail

template <class T, int Vp>
void choose_tokens(Grid& be, int* chosen, Rows<const T, Vp> logits, const int* positions, int first,
                   const Sampling& sampling, int classes) {
  be.launch_shaped("choose_tokens", detail::choose_tokens<T, Vp>, {logits.rows, detail::choosing_threads, 0}, chosen,
                   logits, positions, first, sampling, classes);
}

}  // namespace mamba::cuda
