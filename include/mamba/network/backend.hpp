// What the network asks of a backend: the contract that eigen/ (one CPU core), cuda/block/ (a thread block) and
// cuda/grid/ (a whole GPU) fulfil, each in a namespace of its own. The network calls these functions unqualified and
// finds them by their first argument, the backend `be`. Shapes: T rows of a tile; C, In, Out any columns; other letters
// as in core/config.hpp. `<-` replaces, `+=` adds. Rows are padded (core/views.hpp): what pads an output is zero.
//
// Everywhere
//   assign(be, to, from)                      to <- from, seen by all who run the composition together
//   add(be, y, a, b)                          y (T, C) <- a + b; y may be a
//   copy(be, y, x), zero(be, x)               y (T, C) <- x; x <- 0
//   gather(be, y, x, rows)                    row i of y (y.rows, C) <- row rows[i] of x (T, C)
//   scatter(be, y, x, rows)                   row rows[i] of y (T, C) <- row i of x
//   linear<write>(be, y, x, w)                y (T, Out) <- or += x (T, In) W^T; w (Out, In), or rows of a Weight
//   linear_backward<write>(be, dx, dy, w)     dx (T, In) <- or += dy (T, Out) W
//   linear_weight_backward(be, dw, dy, x)     dw (Out, In) += dy^T x
//   rms_norm<Groups>(be, y, rho, x, w)        y (T, D) <- x rho w; rho (T, Groups) <- 1 / sqrt(mean square + epsilon)
//   rms_norm_backward<Groups>(be, dx, dw, dy, rho, x, w)
//                                             dx (T, D) += for the residual stream's gradient adds; dw (D) +=
//   cross_entropy(be, dlogits, logits, labels, classes, weight) -> double
//                                             the rows' share of the loss; dlogits (rows, Vp) <- its gradient
// Embedding and positions (network/embedding.hpp)
//   embedding(be, x, tokens, table)           x (T, D) <- rows of table (Vp, D)
//   embedding_backward(be, dtable, dx, tokens)
//   add_positions(be, x, sequences, positions, table)
//                                             x (T, D) += rows of table (Lmax, D)
//   add_positions_backward(be, dtable, dx, sequences, positions)
//   add_sinusoids(be, x, sequences, positions)
// The convolution (network/conv.hpp)
//   causal_conv(be, v, x, sequences, w, bias, history)
//                                             v (T, C) <- the depthwise convolution of x; w (C, K), bias (C)
//   causal_conv_backward<write>(be, dx, dv, sequences, w)
//                                             dx (T, C) <- or +=
//   causal_conv_weight_backward(be, dw, dv, x, sequences)
//                                             dw (C, K) +=
//   add_bias_backward(be, dbias, dx)          dbias (C) += the sum of dx's rows
//   silu(be, u, v)                            u (T, C) <- v sigmoid(v)
//   silu_backward(be, dv, du, v)              dv may be du
//   gate(be, o, y, z)                         o (T, E) <- y silu(z)
//   gate_backward(be, dy, dz, d_o, y, z)      dz may be d_o
//   where the backend says fuses_convolution, these, too:
//   causal_conv_silu(be, u, x, sequences, w, bias, history)
//   causal_conv_silu_backward<write, learned_weight, learned_bias>(be, dx, dw, dbias, du, x, sequences, w, bias)
// Step sizes (network/fused.hpp)
//   where it says fuses_steps: step_sizes(be, delta, pi, bias), step_sizes_backward(be, dpi, dbias, ddelta, pi)
//   else: add_bias(be, x, bias), softplus(be, delta, pi), softplus_backward(be, dpi, ddelta, pi)
//   where activations are recomputed (network/network.hpp), softplus in any case
// Mamba-1
//   selective_scan(be, y, boundaries, states, delta, u, b, c, sequences, a, d, blocked rows)
//   selective_scan_backward(be, ddelta, du, db, dc, da, dd, dy, boundaries, carry, delta, u, b, c, sequences, a, d,
//                           passed)
// Mamba-2
//   ssd<G, N>(be, y, boundaries, states, delta, xbc, sequences, a, d, blocked rows)
//   ssd_backward<G, N>(be, ddelta, dxbc, da, dd, dy, boundaries, delta, xbc, sequences, a, d, passed)
//   where it says fuses_gated_norm: gated_norm<G>, gated_norm_backward<G> (network/fused.hpp)
// Mamba-3 (specification, section 14); sizes: a RotarySsdSizes (network/recurrence.hpp)
//   trapezoid<softplus_rate>(be, sizes, log_decay, mu, turns, history, delta, raw, sequences)
//                                             decays, weights of inputs and angles, of raw (T, 2H + Na)
//   trapezoid_backward<softplus_rate>(be, sizes, draw, ddelta, dlog_decay, dmu, dangles, delta, raw, sequences, passed)
//                                             ddelta (T, H) +=
//   rotary_ssd(be, sizes, y, boundaries, state, delta, log_decay, mu, turns, xbc, sequences, weights, blocked rows)
//   rotary_ssd_backward(be, sizes, ddelta, dlog_decay, dmu, dangles, dxbc, dweights, dy, boundaries, delta, log_decay,
//   mu,
//                       turns, xbc, sequences, weights, passed)
//   ranked_gate<normed>(be, o, y, z, mimo_z, mimo_o, norm), ranked_gate_backward<normed>(be, dy, dz, dmimo_z, dmimo_o,
//                       dnorm, d_o, y, z, mimo_z, mimo_o, norm)
//                                             the gates of a head's several outputs, which become one
// The mixers where it says fuses_recurrence (network/fused.hpp); the first where it says fuses_token_steps, too
//   linear_scan_gated(be, o, y, pi, states, r, w, bias, u, z, b, c, sequences, a, d)
//                                             linear, step_sizes, selective_scan and gate in one; y and pi are scratch
//   ssd_of_steps<G, N>(be, y, states, delta, pi, bias, xbc, sequences, a, d)
//                                             step_sizes and ssd in one; delta is scratch
//   rotary_of_tokens<softplus_rate, normed>(be, sizes, o, state, pi, bias, raw, xbc, z, sequences, weights, gate)
//                                             step_sizes, trapezoid, rotary_ssd and the gates in one, of sequences'
//                                             next tokens
// Steps of some sequences, one token each, where it says fuses_token_steps (network/fused.hpp); rows are sequences
//   is_token_step<S>(be, rows, sequences), has_few_rows<S>(be, rows) -> bool
//                                             whether a layer's step is to be used, of so many rows; whether
//                                             normed_linear is. S: what weights are stored in
//   normed_linear(be, y, x, norm, w)          rms_norm and linear in one
//   normed_products(be, y, also, x, norm, w)  the same of outputs of two types; y, also: Beside
//   normed_linear_conv<bypass>(be, to, x, norm, w, taps, bias, history)
//                                             rms_norm, in_proj and the convolution in one; to: InnerRows
//   gated_normed_linear(be, y, y_in, z, norm, w)
//                                             gated_norm and linear<Write::add> in one
// A backend that says adds_to_residual has a layer's last product add to the residual stream, where all share one.
// Gradients through states (network/mixer.hpp): passed is NoPassedState, or where it says passes_states PassedState<T>;
// then it has, too
//   causal_conv(...) whose history is const: it is read and stays
//   causal_conv_history_backward(be, dx, dhistory, dv, sequences, w)
//                                             behind the others' gradients: dx += dhistory, the gradient of the history
//                                             behind the sequences, which becomes that of the one before
//   causal_conv_history_weight_backward(be, dw, dv, history, sequences)
//                                             dw (C, K) += what the history before them adds
// Products side by side (network/linear.hpp)
//   where it says splits_products: linear, linear_backward and linear_weight_backward with Beside in place of the
//   outputs' rows, but where it says rounds_gradients linear alone
//   where it says rounds_gradients: linear_gradients<write>(be, dx, dw, dy, x, w), the two gradients of a product; dy
//   may be Beside. An engine that keeps little (network.hpp) has dlogits and dpi above as weights are stored
#pragma once

#include <concepts>

#include <mamba/core/views.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::network {

template <class Backend, class T, int C>
concept HasElementwise = requires(Backend& be, Rows<T, C> x, const int* rows, int number) {
  assign(be, number, number);
  add(be, x, in(x), in(x));
  copy(be, x, in(x));
  zero(be, x);
  gather(be, x, in(x), rows);
  scatter(be, x, in(x), rows);
};

template <class Backend, class T, int Out, int In>
concept HasProducts =
    requires(Backend& be, Rows<T, Out> y, Rows<T, In> x, Weight<T, Out, In> w, WeightGradient<T, Out, In> dw) {
      linear(be, y, in(x), w);
      linear<Write::add>(be, y, in(x), w);
      linear_backward<Write::set>(be, x, in(y), w);
      linear_weight_backward(be, dw, in(y), in(x));
    };

template <class Backend, class T, int Out, int In>
concept HasProductsBeside =
    requires(Backend& be, Rows<T, Out> y, Rows<T, In> x, Weight<T, 2 * Out, In> w, WeightGradient<T, 2 * Out, In> dw) {
      linear(be, beside(y, y), in(x), w);
      requires Backend::rounds_gradients || requires {
        linear_backward<Write::set>(be, x, beside(in(y), in(y)), w);
        linear_weight_backward(be, dw, beside(in(y), in(y)), in(x));
      };
    };

template <class Backend, class T, int Out, int In>
concept HasProductGradients =
    requires(Backend& be, Rows<T, Out> y, Rows<T, In> x, Weight<T, 2 * Out, In> w, WeightGradient<T, 2 * Out, In> dw,
             Weight<T, Out, In> of_one, WeightGradient<T, Out, In> dw_of_one) {
      linear_gradients<Write::set>(be, x, dw, beside(in(y), in(y)), in(x), w);
      linear_gradients<Write::add>(be, x, dw_of_one, in(y), in(x), of_one);
    };

template <class Backend, class T, int D>
concept HasNorm =
    requires(Backend& be, Rows<T, D> x, T* rho, const T* kept_rho, Weight<T, 1, D> w, WeightGradient<T, 1, D> dw) {
      rms_norm(be, x, rho, in(x), w);
      rms_norm_backward(be, x, dw, in(x), kept_rho, in(x), w);
    };

template <class Backend, class T, int Groups, int E>
concept HasGatedNorm =
    requires(Backend& be, Rows<T, E> x, T* rho, const T* kept_rho, Weight<T, 1, E> w, WeightGradient<T, 1, E> dw) {
      gated_norm<Groups>(be, x, x, rho, in(x), in(x), w);
      gated_norm_backward<Groups>(be, x, x, x, dw, in(x), in(x), kept_rho, in(x), in(x), w);
    };

template <class Backend, class T, int Vp>
concept HasLoss = requires(Backend& be, Rows<T, Vp> logits, const int* labels) {
  { cross_entropy(be, logits, in(logits), labels, 1, 1.0) } -> std::same_as<double>;
};

template <class Backend, class T, int Vp, int D>
concept HasEmbedding = requires(Backend& be, Rows<T, D> x, const int* numbers, Sequences sequences,
                                Weight<T, Vp, D> table, WeightGradient<T, Vp, D> dtable) {
  embedding(be, x, numbers, table);
  embedding_backward(be, dtable, in(x), numbers);
  add_positions(be, x, sequences, numbers, table);
  add_positions_backward(be, dtable, in(x), sequences, numbers);
  add_sinusoids(be, x, sequences, numbers);
};

template <class Backend, class T, int C, int K>
concept HasConvolution = requires(Backend& be, Rows<T, C> x, Sequences sequences, T* history, Weight<T, C, K> w,
                                  WeightGradient<T, C, K> dw, Weight<T, 1, C> bias, WeightGradient<T, 1, C> dbias) {
  causal_conv(be, x, in(x), sequences, w, bias, history);
  causal_conv_backward<Write::add>(be, x, in(x), sequences, w);
  causal_conv_weight_backward(be, dw, in(x), in(x), sequences);
  add_bias_backward(be, dbias, in(x));
  silu(be, x, in(x));
  silu_backward(be, x, in(x), in(x));
  gate(be, x, in(x), in(x));
  gate_backward(be, x, x, in(x), in(x), in(x));
};

template <class Backend, class T, int C, int K>
concept HasFusedConvolution =
    requires(Backend& be, Rows<T, C> x, Sequences sequences, T* history, Weight<T, C, K> w, WeightGradient<T, C, K> dw,
             Weight<T, 1, C> bias, WeightGradient<T, 1, C> dbias) {
      causal_conv_silu(be, x, in(x), sequences, w, bias, history);
      causal_conv_silu_backward<Write::add, true, true>(be, x, dw, dbias, in(x), in(x), sequences, w, bias);
    };

template <class Backend, class T, int C, int K>
concept HasPassedHistory = requires(Backend& be, Rows<T, C> x, Sequences sequences, const T* history, T* gradient,
                                    Weight<T, C, K> w, WeightGradient<T, C, K> dw, Weight<T, 1, C> bias) {
  causal_conv(be, x, in(x), sequences, w, bias, history);
  causal_conv_history_backward(be, x, gradient, in(x), sequences, w);
  causal_conv_history_weight_backward(be, dw, in(x), history, sequences);
};

template <class Backend, class T, int C>
concept HasSteps = requires(Backend& be, Rows<T, C> x, Weight<T, 1, C> bias) {
  add_bias(be, x, bias);
  softplus(be, x, in(x));
  softplus_backward(be, x, in(x), in(x));
};

template <class Backend, class T, int C>
concept HasFusedSteps = requires(Backend& be, Rows<T, C> x, Weight<T, 1, C> bias, WeightGradient<T, 1, C> dbias) {
  step_sizes(be, x, x, bias);
  step_sizes_backward(be, x, dbias, in(x), in(x));
};

template <class Backend, class T, int E, int N>
concept HasSelectiveScan =
    requires(Backend& be, Rows<T, E> x, Rows<T, N> b, T* states, const T* kept, Sequences sequences, Weight<T, E, N> a,
             Weight<T, 1, E> d, WeightGradient<T, E, N> da, WeightGradient<T, 1, E> dd, NoRows none, BlockedRows some) {
      selective_scan(be, x, states, states, in(x), in(x), in(b), in(b), sequences, a, d, none);
      selective_scan(be, x, states, states, in(x), in(x), in(b), in(b), sequences, a, d, some);
      selective_scan_backward(be, x, x, b, b, da, dd, in(x), kept, states, in(x), in(x), in(b), in(b), sequences, a, d);
    };

template <class Backend, class T, int H, int P, int G, int N>
concept HasSsd =
    requires(Backend& be, Rows<T, H * P> y, Rows<T, H> delta, Rows<T, H * P + 2 * G * N> xbc, T* states, const T* kept,
             Sequences sequences, Weight<T, 1, H> a, WeightGradient<T, 1, H> da, NoRows none, BlockedRows some) {
      ssd<G, N>(be, y, states, states, in(delta), in(xbc), sequences, a, a, none);
      ssd<G, N>(be, y, states, states, in(delta), in(xbc), sequences, a, a, some);
      ssd_backward<G, N>(be, delta, xbc, da, da, in(y), kept, in(delta), in(xbc), sequences, a, a);
    };

template <class Backend, class T, int E, int N>
concept PassesSelectiveScan =
    requires(Backend& be, Rows<T, E> x, Rows<T, N> b, T* states, const T* kept, Sequences sequences, Weight<T, E, N> a,
             Weight<T, 1, E> d, WeightGradient<T, E, N> da, WeightGradient<T, 1, E> dd, PassedState<T> passed) {
      selective_scan_backward(be, x, x, b, b, da, dd, in(x), kept, states, in(x), in(x), in(b), in(b), sequences, a, d,
                              passed);
    };

template <class Backend, class T, int H, int P, int G, int N>
concept PassesSsd =
    requires(Backend& be, Rows<T, H * P> y, Rows<T, H> delta, Rows<T, H * P + 2 * G * N> xbc, const T* kept,
             Sequences sequences, Weight<T, 1, H> a, WeightGradient<T, 1, H> da, PassedState<T> passed) {
      ssd_backward<G, N>(be, delta, xbc, da, da, in(y), kept, in(delta), in(xbc), sequences, a, a, passed);
    };

template <class Backend, class T, int E, int N>
concept HasFusedSelectiveScan = requires(Backend& be, Rows<T, E> x, Rows<T, N> b, T* states, Sequences sequences,
                                         Weight<T, E, N> a, Weight<T, 1, E> d) {
  linear_scan_gated(be, x, x, x, states, in(b), a, d, in(x), in(x), in(b), in(b), sequences, a, d);
};

template <class Backend, class T, int H, int P, int G, int N>
concept HasFusedSsd = requires(Backend& be, Rows<T, H * P> y, Rows<T, H> delta, Rows<T, H * P + 2 * G * N> xbc,
                               T* states, Sequences sequences, Weight<T, 1, H> a) {
  ssd_of_steps<G, N>(be, y, states, delta, delta, a, in(xbc), sequences, a, a);
};

template <class Backend, class T, int Out, int In>
concept HasTokenSteps = requires(Backend& be, Rows<T, Out> y, Rows<T, In> x, Sequences sequences, Weight<T, 1, In> norm,
                                 Weight<T, Out, In> w) {
  { is_token_step<T>(be, 1, sequences) } -> std::same_as<bool>;
  { has_few_rows<T>(be, 1) } -> std::same_as<bool>;
  normed_linear(be, y, in(x), norm, w);
  gated_normed_linear(be, y, in(x), in(x), norm, w);
  normed_products(be, beside(y), beside(y), in(x), norm, Weight<T, 2 * Out, In>{});
};

template <class Backend, class Sizes, class T = typename Sizes::Scalar>
concept HasTrapezoid = requires(Backend& be, Sizes sizes, Rows<T, Sizes::H> of_heads,
                                Rows<T, 2 * Sizes::H + Sizes::Na> raw, Rows<T, Sizes::H * Sizes::Na> dangles,
                                Rows<math::Turns<T>, Sizes::H * Sizes::Na> turns, T* history, Sequences sequences) {
  trapezoid<false>(be, sizes, of_heads, of_heads, turns, history, in(of_heads), in(raw), sequences);
  trapezoid_backward<false>(be, sizes, raw, of_heads, in(of_heads), in(of_heads), in(dangles), in(of_heads), in(raw),
                            sequences);
};

template <class Backend, class Sizes, class T = typename Sizes::Scalar>
concept HasRotarySsd =
    requires(Backend& be, Sizes sizes, Rows<T, Sizes::R * Sizes::E> y, Rows<T, Sizes::H> of_heads,
             Rows<T, Sizes::C> xbc, Rows<T, Sizes::H * Sizes::Na> dangles,
             Rows<const math::Turns<T>, Sizes::H * Sizes::Na> turns, T* boundaries, MixerState<T> state,
             Sequences sequences, RotaryWeights<Sizes> w, RotaryGradients<Sizes> dw, NoRows none, BlockedRows some) {
      rotary_ssd(be, sizes, y, boundaries, state, in(of_heads), in(of_heads), in(of_heads), turns, in(xbc), sequences,
                 w, none);
      rotary_ssd(be, sizes, y, boundaries, state, in(of_heads), in(of_heads), in(of_heads), turns, in(xbc), sequences,
                 w, some);
      rotary_ssd_backward(be, sizes, of_heads, of_heads, of_heads, dangles, xbc, dw, in(y), boundaries, in(of_heads),
                          in(of_heads), in(of_heads), turns, in(xbc), sequences, w);
    };

template <class Backend, class Sizes, class T = typename Sizes::Scalar>
concept HasFusedRotarySsd = requires(Backend& be, Sizes sizes, Rows<T, Sizes::E> x, Rows<T, Sizes::H> of_heads,
                                     MixerState<T> state, Rows<T, Sizes::C> xbc, Rows<T, 2 * Sizes::H + Sizes::Na> raw,
                                     Weight<T, 1, Sizes::H> bias, Sequences sequences, RotaryWeights<Sizes> w,
                                     RotaryGate<Sizes> gate) {
  rotary_of_tokens<false, true>(be, sizes, x, state, in(of_heads), bias, in(raw), in(xbc), in(x), sequences, w, gate);
};

template <class Backend, class Sizes, class T = typename Sizes::Scalar>
concept HasRankedGate =
    requires(Backend& be, Rows<T, Sizes::R * Sizes::E> y, Rows<T, Sizes::E> x,
             Weight<T, Sizes::H, Sizes::R * Sizes::P> w, WeightGradient<T, Sizes::H, Sizes::R * Sizes::P> dw,
             Weight<T, 1, Sizes::E> norm, WeightGradient<T, 1, Sizes::E> dnorm) {
      ranked_gate<true>(be, x, in(y), in(x), w, w, norm);
      ranked_gate_backward<true>(be, y, x, dw, dw, dnorm, in(x), in(y), in(x), w, w, norm);
    };

namespace detail {

// What a recurrence adds.
template <class Backend, class T, int E, int N>
constexpr void check_recurrence(SelectiveScanSizes<T, E, N>) {
  if constexpr (Backend::fuses_recurrence || Backend::fuses_token_steps)
    static_assert(HasFusedSelectiveScan<Backend, T, E, N>,
                  "mamba: the backend says fuses_recurrence or fuses_token_steps, but lacks linear_scan_gated "
                  "(network/backend.hpp)");
  if constexpr (Backend::passes_states)
    static_assert(
        PassesSelectiveScan<Backend, T, E, N>,
        "mamba: the backend says passes_states, but its selective_scan_backward takes none (network/backend.hpp)");
  static_assert(HasSelectiveScan<Backend, T, E, N>,
                "mamba: the backend lacks selective_scan or selective_scan_backward (network/backend.hpp)");
}
template <class Backend, class T, int H, int P, int G, int N>
constexpr void check_recurrence(SsdSizes<T, H, P, G, N>) {
  if constexpr (Backend::fuses_recurrence)
    static_assert(HasFusedSsd<Backend, T, H, P, G, N>,
                  "mamba: the backend says fuses_recurrence, but lacks ssd_of_steps (network/backend.hpp)");
  if constexpr (Backend::passes_states)
    static_assert(PassesSsd<Backend, T, H, P, G, N>,
                  "mamba: the backend says passes_states, but its ssd_backward takes none (network/backend.hpp)");
  static_assert(HasSsd<Backend, T, H, P, G, N>, "mamba: the backend lacks ssd or ssd_backward (network/backend.hpp)");
  if constexpr (Backend::fuses_gated_norm)
    static_assert(
        HasGatedNorm<Backend, T, G, H * P>,
        "mamba: the backend says fuses_gated_norm, but lacks gated_norm or its backward (network/backend.hpp)");
}

template <class Backend, class T, int H, int P, int G, int N, int rank, int Na>
constexpr void check_recurrence(RotarySsdSizes<T, H, P, G, N, rank, Na> sizes) {
  using Sizes = decltype(sizes);
  static_assert(HasTrapezoid<Backend, Sizes>,
                "mamba: the backend lacks trapezoid or trapezoid_backward, which Mamba3 needs (network/backend.hpp)");
  static_assert(HasRotarySsd<Backend, Sizes>,
                "mamba: the backend lacks rotary_ssd or rotary_ssd_backward, which Mamba3 needs (network/backend.hpp)");
  if constexpr (Backend::fuses_recurrence && Sizes::token_fits_block)
    static_assert(HasFusedRotarySsd<Backend, Sizes>,
                  "mamba: the backend says fuses_recurrence, but lacks rotary_of_tokens (network/backend.hpp)");
  if constexpr (rank > 0)
    static_assert(HasRankedGate<Backend, Sizes>,
                  "mamba: the backend lacks ranked_gate or its backward, which Mamba3 needs (network/backend.hpp)");
}

}  // namespace detail

// Says in words what a backend lacks for a model of these sizes.
template <class Backend, class T, int D, int Vp, int C, int K, class Recurrence>
constexpr bool check_backend() {
  static_assert(
      requires {
        Backend::fuses_convolution, Backend::fuses_steps, Backend::fuses_gated_norm, Backend::splits_products,
            Backend::fuses_recurrence, Backend::adds_to_residual, Backend::rounds_gradients, Backend::passes_states,
            Backend::fuses_token_steps;
      },
      "mamba: the backend does not say what it has in one piece: fuses_convolution, fuses_steps, fuses_gated_norm, "
      "splits_products, fuses_recurrence, adds_to_residual, rounds_gradients, passes_states, fuses_token_steps");
  static_assert(HasElementwise<Backend, T, D>,
                "mamba: the backend lacks assign, add, copy, zero, gather or scatter (network/backend.hpp)");
  static_assert(HasProducts<Backend, T, Vp, D>,
                "mamba: the backend lacks linear, linear_backward or linear_weight_backward (network/backend.hpp)");
  static_assert(HasNorm<Backend, T, D>, "mamba: the backend lacks rms_norm or rms_norm_backward (network/backend.hpp)");
  static_assert(HasLoss<Backend, T, Vp>, "mamba: the backend lacks cross_entropy (network/backend.hpp)");
  static_assert(
      HasEmbedding<Backend, T, Vp, D>,
      "mamba: the backend lacks embedding, add_positions, their backward or add_sinusoids (network/backend.hpp)");
  if constexpr (C > 0) {  // a mixer with a convolution
    static_assert(
        HasConvolution<Backend, T, C, K>,
        "mamba: the backend lacks causal_conv, silu, gate, their backward or add_bias_backward (network/backend.hpp)");
    if constexpr (Backend::fuses_convolution)
      static_assert(HasFusedConvolution<Backend, T, C, K>,
                    "mamba: the backend says fuses_convolution, but lacks causal_conv_silu or its backward "
                    "(network/backend.hpp)");
    if constexpr (Backend::passes_states)
      static_assert(HasPassedHistory<Backend, T, C, K>,
                    "mamba: the backend says passes_states, but lacks causal_conv with a history that stays, "
                    "causal_conv_history_backward or causal_conv_history_weight_backward (network/backend.hpp)");
  }
  if constexpr (Backend::fuses_token_steps)
    static_assert(HasTokenSteps<Backend, T, Vp, D>,
                  "mamba: the backend says fuses_token_steps, but lacks is_token_step, has_few_rows, normed_linear, "
                  "normed_products or gated_normed_linear (network/backend.hpp)");
  if constexpr (Backend::fuses_steps)
    static_assert(HasFusedSteps<Backend, T, D>,
                  "mamba: the backend says fuses_steps, but lacks step_sizes or its backward (network/backend.hpp)");
  else
    static_assert(HasSteps<Backend, T, D>,
                  "mamba: the backend lacks add_bias, softplus or softplus_backward (network/backend.hpp)");
  if constexpr (Backend::splits_products)
    static_assert(
        HasProductsBeside<Backend, T, D, D>,
        "mamba: the backend says splits_products, but lacks linear with Beside or its backward (network/backend.hpp)");
  if constexpr (Backend::rounds_gradients)
    static_assert(HasProductGradients<Backend, T, D, D>,
                  "mamba: the backend says rounds_gradients, but lacks linear_gradients (network/backend.hpp)");
  detail::check_recurrence<Backend>(Recurrence{});
  return true;
}

}  // namespace mamba::network
