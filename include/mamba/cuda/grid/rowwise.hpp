// What happens to every row, and to every sequence, over the whole device: look-ups, norms, gates, activations,
// positions. Shapes and meanings are those of rowwise.hpp and embedding.hpp in block/.
#pragma once

#include <algorithm>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/embedding.hpp>
#include <mamba/cuda/block/norm.hpp>
#include <mamba/cuda/block/rowwise.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/runtime/error.hpp>

namespace mamba::cuda {

// The primitives at the scope of a block, as types that kernels can be told.
namespace on_block {

template <int Groups>
struct RmsNorm {
  template <class... X>
  __device__ static void run(Block& be, X... x) {
    rms_norm<Groups>(be, x...);
  }
};
template <int Groups>
struct RmsNormBackward {
  template <class DW, class DX, class... X>
  __device__ static void run(Block& be, DW dw, DX dx, X... x) {
    rms_norm_backward<Groups>(be, dx, dw, x...);
  }
};
struct StepSizesBackward {
  template <class DBias, class DPi, class... X>
  __device__ static void run(Block& be, DBias dbias, DPi dpi, X... x) {
    step_sizes_backward(be, dpi, dbias, x...);
  }
};
template <int Groups>
struct GatedNorm {
  template <class... X>
  __device__ static void run(Block& be, X... x) {
    gated_norm<Groups>(be, x...);
  }
};
template <int Groups>
struct GatedNormBackward {
  template <class DW, class Rows, class... X>
  __device__ static void run(Block& be, DW dw, Rows dy, Rows dz, Rows dg, X... x) {
    gated_norm_backward<Groups>(be, dy, dz, dg, dw, x...);
  }
};
#define MAMBA_ON_BLOCK(Name, primitive)             \
  struct Name {                                     \
    template <class... X>                           \
    __device__ static void run(Block& be, X... x) { \
      primitive(be, x...);                          \
    }                                               \
  }
MAMBA_ON_BLOCK(Softplus, softplus);
MAMBA_ON_BLOCK(Add, add);
MAMBA_ON_BLOCK(AddBiasBackward, add_bias_backward);
MAMBA_ON_BLOCK(Gate, gate);
MAMBA_ON_BLOCK(GateBackward, gate_backward);
MAMBA_ON_BLOCK(Silu, silu);
MAMBA_ON_BLOCK(SiluBackward, silu_backward);
MAMBA_ON_BLOCK(StepSizes, step_sizes);
MAMBA_ON_BLOCK(Gather, gather);
MAMBA_ON_BLOCK(Scatter, scatter);
MAMBA_ON_BLOCK(Embedding, embedding);
MAMBA_ON_BLOCK(AddPositions, add_positions);
MAMBA_ON_BLOCK(AddPositionsBackward, add_positions_backward);
MAMBA_ON_BLOCK(AddSinusoids, add_sinusoids);
#undef MAMBA_ON_BLOCK

}  // namespace on_block

// --- rows --------------------------------------------------------------------------------------------------------

template <int Groups = 1, class Y, class T, class X, int D>
void rms_norm(Grid& be, Rows<Y, D> y, T* rho, Rows<const X, D> x, Weight<T, 1, D> w) {
  be.over_rows<on_block::RmsNorm<Groups>>(y, y, PerRow<T>{rho, Groups}, x, w);
}
template <int Groups = 1, class T, class X, int D>
void rms_norm_backward(Grid& be, Rows<T, D> dx, WeightGradient<T, 1, D> dw, Rows<const T, D> dy, const T* rho,
                       Rows<const X, D> x, Weight<T, 1, D> w) {
  be.over_rows_with_gradient<on_block::RmsNormBackward<Groups>>(dw, x.rows, dx, dy, PerRow<const T>{rho, Groups}, x, w);
}
template <class Y, class X, class Z, int C>
void add(Grid& be, Rows<Y, C> y, Rows<const X, C> a, Rows<const Z, C> b) {
  be.over_rows<on_block::Add>(y, y, a, b);
}
template <class T, int C>
void add_bias_backward(Grid& be, WeightGradient<T, 1, C> dbias, Rows<const T, C> dx) {
  be.over_rows_with_gradient<on_block::AddBiasBackward>(dbias, dx.rows, dx);
}
template <class O, class Y, class Z, int E>
void gate(Grid& be, Rows<O, E> o, Rows<const Y, E> y, Rows<const Z, E> z) {
  be.over_rows<on_block::Gate>(o, o, y, z);
}
template <class DY, class DZ, class DO, class Y, class Z, int E>
void gate_backward(Grid& be, Rows<DY, E> dy, Rows<DZ, E> dz, Rows<const DO, E> d_o, Rows<const Y, E> y,
                   Rows<const Z, E> z) {
  be.over_rows<on_block::GateBackward>(dy, dy, dz, d_o, y, z);
}
template <class U, class X, int E>
void silu(Grid& be, Rows<U, E> u, Rows<const X, E> v) {
  be.over_rows<on_block::Silu>(u, u, v);
}
template <class DX, class DU, class X, int E>
void silu_backward(Grid& be, Rows<DX, E> dv, Rows<const DU, E> du, Rows<const X, E> v) {
  be.over_rows<on_block::SiluBackward>(dv, dv, du, v);
}
template <class T, int C>
void softplus(Grid& be, Rows<T, C> delta, Rows<const T, C> x) {
  be.over_rows<on_block::Softplus>(delta, delta, x);
}
template <class T, int C>
void step_sizes(Grid& be, Rows<T, C> delta, Rows<T, C> pi, Weight<T, 1, C> bias) {
  be.over_rows<on_block::StepSizes>(pi, delta, pi, bias);
}
template <class P, class T, int C>
void step_sizes_backward(Grid& be, Rows<P, C> dpi, WeightGradient<T, 1, C> dbias, Rows<const T, C> ddelta,
                         Rows<const T, C> pi) {
  if constexpr (!std::is_same_v<P, T>) detail::clear_padding(be, dpi);  // elsewhere it is ddelta's
  be.over_rows_with_gradient<on_block::StepSizesBackward>(dbias, pi.rows, dpi, ddelta, pi);
}
template <int Groups, class S, class T, int E>
void gated_norm(Grid& be, Rows<S, E> o, Rows<S, E> g, T* rho, Rows<const S, E> y, Rows<const S, E> z,
                Weight<T, 1, E> w) {
  be.over_rows<on_block::GatedNorm<Groups>>(o, o, g, PerRow<T>{rho, Groups}, y, z, w);
}
template <int Groups, class S, class T, int E>
void gated_norm_backward(Grid& be, Rows<T, E> dy, Rows<T, E> dz, Rows<T, E> dg, WeightGradient<T, 1, E> dw,
                         Rows<const T, E> d_o, Rows<const S, E> g, const T* rho, Rows<const S, E> y, Rows<const S, E> z,
                         Weight<T, 1, E> w) {
  be.over_rows_with_gradient<on_block::GatedNormBackward<Groups>>(dw, y.rows, dy, dz, dg, d_o, g,
                                                                  PerRow<const T>{rho, Groups}, y, z, w);
}
template <class T, int C>
void copy(Grid& be, Rows<T, C> y, Rows<const T, C> x) {
  const std::size_t quads = static_cast<std::size_t>(x.rows) * x.stride / 4;
  be.launch_over("copy_elements", detail::copy_elements<T, T>, quads, y.data, x.data, quads);
}
template <class T, int C>
void zero(Grid& be, Rows<T, C> x) {
  be.zero(x.data, static_cast<std::size_t>(x.rows) * x.stride);
}
template <class T, int C>
void gather(Grid& be, Rows<T, C> y, Rows<const T, C> x, const int* rows) {
  be.over_rows<on_block::Gather>(y, y, Whole<Rows<const T, C>>{x}, PerRow<const int>{rows});
}
template <class T, int C>
void scatter(Grid& be, Rows<T, C> y, Rows<const T, C> x, const int* rows) {
  be.over_rows<on_block::Scatter>(x, Whole<Rows<T, C>>{y}, x, PerRow<const int>{rows});
}

// --- look-ups ----------------------------------------------------------------------------------------------------

template <class T, class S, int D, int Vp>
void embedding(Grid& be, Rows<T, D> x, const int* tokens, Weight<S, Vp, D> table) {
  be.over_rows<on_block::Embedding>(x, x, PerRow<const int>{tokens}, table);
}

namespace detail {
template <class T, int D, int Vp>
__global__ void __launch_bounds__(Block::threads)
    add_token_rows_kernel(WeightGradient<T, Vp, D> dtable, Rows<const T, D> dx, const int* tokens) {
  begin_kernel();
  constexpr int quads = Rows<T, D>::stride / 4, at_once = 4;  // asked for together: a row's way is what takes time
  add_token_rows(dtable, dx, tokens, static_cast<int>(blockIdx.x) * Block::warps + warp(),
                 static_cast<int>(gridDim.x) * Block::warps, [](T* to, const T* from) {
                   for (int first = lane(); first < quads; first += 32 * at_once) {
                     Quad<T> sums[at_once], more[at_once];
#pragma unroll
                     for (int i = 0; i < at_once; ++i)
                       if (const int q = first + 32 * i; q < quads)
                         sums[i] = load4(static_cast<const T*>(to) + 4 * q), more[i] = load4(from + 4 * q);
#pragma unroll
                     for (int i = 0; i < at_once; ++i)
                       if (const int q = first + 32 * i; q < quads)
                         add_to(sums[i], more[i]), store4(to + 4 * q, sums[i]);
                   }
                 });
}
}  // namespace detail

template <class T, int D, int Vp>
void embedding_backward(Grid& be, WeightGradient<T, Vp, D> dtable, Rows<const T, D> dx, const int* tokens) {
  // Each warp reads all tokens: more of them read more than they share out.
  constexpr int blocks = (std::min)((Vp + Block::warps - 1) / Block::warps, GridTuning::token_blocks);
  be.launch("add_token_rows", detail::add_token_rows_kernel<T, D, Vp>, blocks, 0, dtable, dx, tokens);
}

// --- sequences ---------------------------------------------------------------------------------------------------

template <class T, class S, int D, int Lmax>
void add_positions(Grid& be, Rows<T, D> x, Sequences sequences, const int* positions, Weight<S, Lmax, D> table) {
  be.over_sequences<on_block::AddPositions>(sequences, x, sequences, PerSequence<const int>{positions}, table);
}
template <class T, int D, int Lmax>
void add_positions_backward(Grid& be, WeightGradient<T, Lmax, D> dtable, Rows<const T, D> dx, Sequences sequences,
                            const int* positions) {
  be.over_sequences_with_gradient<on_block::AddPositionsBackward>(dtable, sequences, dx, sequences,
                                                                  PerSequence<const int>{positions});
}
template <class T, int D>
void add_sinusoids(Grid& be, Rows<T, D> x, Sequences sequences, const int* positions) {
  be.over_sequences<on_block::AddSinusoids>(sequences, x, sequences, PerSequence<const int>{positions});
}

}  // namespace mamba::cuda
