// The Mamba-2 mixer: n (T, D) -> m (T, D) (specification, section 7; Dao and Gu 2024).
#pragma once

#include <type_traits>

#include <mamba/core/macros.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/policies.hpp>
#include <mamba/core/views.hpp>
#include <mamba/network/conv.hpp>
#include <mamba/network/fused.hpp>
#include <mamba/network/linear.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/parameters.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::network {

template <class A, int headdim, int ngroups, int norm_groups>
struct MixerOf<A, Mamba2<headdim, ngroups, norm_groups>> {
  using S = typename A::Storage;
  using T = typename A::Scalar;
  static constexpr Config config = A::config;
  static constexpr int D = config.d_model, E = config.d_inner(), N = config.d_state, K = config.d_conv;
  static constexpr int P = headdim == 0 ? E : headdim, G = ngroups;
  static_assert(E % P == 0, "mamba: Mamba2's headdim must divide d_inner");
  static constexpr int H = E / P;
  static_assert(H % G == 0, "mamba: Mamba2's ngroups must divide the number of heads");
  static constexpr int of_norm = Mamba2<headdim, ngroups, norm_groups>::norm_groups;  // groups
  static_assert(E % of_norm == 0, "mamba: Mamba2's norm_groups must divide d_inner");
  static constexpr int C = E + 2 * G * N;  // channels of the convolution: x, b, c
  static constexpr bool rate_per_state = false;
  static constexpr bool has_step = true;
  static constexpr int conv_channels = C;
  static constexpr int widest = C;  // columns of the widest rows below
  static constexpr int most_outputs = E + C + H;

  static constexpr auto parameters() {
    Parameter a_log = vector_parameter("mixer.A_log", Role::rate, H, Law::log_uniform, 16);
    a_log.derived = Derived::rate;
    return join(ParameterTable<4>{vector_parameter("mixer.dt_bias", Role::step_bias, H, Law::inverse_softplus_step, 0),
                                  a_log, vector_parameter("mixer.D", Role::skip, H, Law::constant, 1),
                                  matrix_parameter("mixer.in_proj.weight", Role::projection, E + C + H, D, Law::uniform,
                                                   1 / table_sqrt(D))},
                conv_parameters<A>(C, K),
                ParameterTable<2>{vector_parameter("mixer.norm.weight", Role::norm, E, Law::constant, 1),
                                  matrix_parameter("mixer.out_proj.weight", Role::projection, D, E,
                                                   Law::uniform_by_depth, 1 / table_sqrt(E))});
  }

  // What forward leaves for backward.
  struct Saved {
    Rows<S, E> z;
    Rows<S, C> x, v, u;    // the convolution's input and its output before and after SiLU: x, b and c side by side
    Rows<T, H> pi, delta;  // the step before and after softplus
    Rows<S, E> y, g, o;    // the state-space model's output, gated, normed
    T* rho = nullptr;      // (T, of_norm)
    T* boundaries = nullptr;

    // boundary_states: how many states are kept; 0 when no backward pass follows. shared: for what recompute() computes
    // again, and for v where only a fused convolution would use it; it may be the same as memory.
    MAMBA_HOST_DEVICE void carve(Carver& memory, Carver& shared, int rows, int boundary_states,
                                 bool /*with_backward*/) {
      memory.take(z, rows), memory.take(x, rows), (keeps_conv_output<A> ? memory : shared).take(v, rows),
          memory.take(u, rows), memory.take(pi, rows);
      memory.take(delta, rows), memory.take(y, rows), shared.take(g, rows), shared.take(o, rows);
      rho = memory.template take<T>(static_cast<std::size_t>(rows) * of_norm);
      boundaries = boundary_states > 0 ? memory.template take<T>(static_cast<std::size_t>(boundary_states) * state_size)
                                       : nullptr;
    }
  };

  // What backward needs for itself; one serves all layers. O: what gradients are stored in that only products read.
  template <class O>
  struct Gradient {
    Rows<T, E> z, y, g, o;
    Rows<T, C> x, u;
    Rows<T, H> delta;

    MAMBA_HOST_DEVICE void carve(Carver& memory, int rows, int) {
      memory.take(z, rows), memory.take(y, rows), memory.take(g, rows), memory.take(o, rows);
      memory.take(x, rows), memory.take(u, rows), memory.take(delta, rows);
    }
  };

  // A sequence's state between calls: the last K-1 rows of x, and (H, N, P).
  static constexpr std::size_t history_size = static_cast<std::size_t>(K - 1) * padded(C);
  static constexpr std::size_t state_size = static_cast<std::size_t>(H) * N * padded(P);

  using Recurrence = SsdSizes<T, H, P, G, N>;

  // m (T, D) <- or += mixer(n), n (T, D).
  MAMBA_COMPOSITION
  template <Write write = Write::set, class Backend, class M, class LayerWeights, class Probe>
  MAMBA_HOST_DEVICE static void forward(Backend& be, Rows<M, D> m, Saved& s, Rows<const S, D> n, Sequences sequences,
                                        LayerWeights w, MixerState<T> state, Probe& probe) {
    const auto in_proj = w.template get<"mixer.in_proj.weight">();
    if constexpr (std::is_same_v<S, T>) {
      products(be, beside(s.z, s.x, s.pi), n, in_proj);
    } else {  // step sizes are computed, not stored
      products(be, beside(s.z, s.x), n, in_proj.template row_block<0, E + C>());
      linear(be, s.pi, n, in_proj.template row_block<E + C, H>());
    }
    probe.template visit<Point::conv_input>(view(s.x));
    conv_forward<A>(be, s.v, s.u, in(s.x), sequences, w, state.history);
    probe.template visit<Point::conv_output>(view(s.u));
    probe.template visit<Point::b>(columns<E, G * N>(s.u));
    probe.template visit<Point::c>(columns<E + G * N, G * N>(s.u));
    if constexpr (fuses_recurrence<Backend, Probe>)
      if (state.states) {
        ssd_of_steps<G, N>(be, s.y, state.states, s.delta, s.pi, w.template get<"mixer.dt_bias">(), in(s.u), sequences,
                           w.template get<"mixer.A_log">(), w.template get<"mixer.D">());
        gated_norm_forward<of_norm>(be, s.o, s.g, s.rho, in(s.y), in(s.z), w.template get<"mixer.norm.weight">());
        return linear<write>(be, m, in(s.o), w.template get<"mixer.out_proj.weight">());
      }
    steps_forward(be, s.delta, s.pi, w.template get<"mixer.dt_bias">());
    probe.template visit<Point::delta>(view(s.delta));
    ssd<G, N>(be, s.y, s.boundaries, state.states, in(s.delta), in(s.u), sequences, w.template get<"mixer.A_log">(),
              w.template get<"mixer.D">(), probe.blocked_rows());
    if constexpr (Probe::restores_rows) {
      ssd<G, N>(be, s.o, s.boundaries, state.states, in(s.delta), in(s.u), sequences, w.template get<"mixer.A_log">(),
                w.template get<"mixer.D">());
      probe.restore(view(s.y), view(s.o));
    }
    probe.template visit<Point::scan_output>(view(s.y));
    gated_norm_forward<of_norm>(be, s.o, s.g, s.rho, in(s.y), in(s.z), w.template get<"mixer.norm.weight">());
    probe.template visit<Point::gated_output>(view(s.o));
    linear<write>(be, m, in(s.o), w.template get<"mixer.out_proj.weight">());
  }

  // residual (T, D) += mixer(rms_norm(residual)), a row being a sequence's next token.
  template <class Backend, class NormWeight, class LayerWeights>
  static void step(Backend& be, Rows<T, D> residual, Saved& s, NormWeight norm, Sequences sequences, LayerWeights w,
                   MixerState<T> state) {
    normed_linear_conv<bypass_of<typename A::ConvResidual>()>(
        be, InnerRows<S, E, C, H>{s.z, s.u, s.pi}, in(residual), norm, w.template get<"mixer.in_proj.weight">(),
        w.template get<"mixer.conv1d.weight">(), w.template get<"mixer.conv1d.bias">(), state.history);
    ssd_of_steps<G, N>(be, s.y, state.states, s.delta, s.pi, w.template get<"mixer.dt_bias">(), in(s.u), sequences,
                       w.template get<"mixer.A_log">(), w.template get<"mixer.D">());
    const auto norm_weight = w.template get<"mixer.norm.weight">();
    const auto out_proj = w.template get<"mixer.out_proj.weight">();
    if constexpr (of_norm == 1) {
      gated_normed_linear(be, residual, in(s.y), in(s.z), norm_weight, out_proj);
    } else {
      gated_norm_forward<of_norm>(be, s.o, s.g, s.rho, in(s.y), in(s.z), norm_weight);
      linear<Write::add>(be, residual, in(s.o), out_proj);
    }
  }

  // What layers share of Saved is that of this layer again.
  MAMBA_COMPOSITION
  template <class Backend, class LayerWeights>
  MAMBA_HOST_DEVICE static void recompute(Backend& be, const Saved& s, LayerWeights w) {
    gated_norm_forward<of_norm>(be, s.o, s.g, s.rho, in(s.y), in(s.z), w.template get<"mixer.norm.weight">());
  }

  // dn (T, D) <- the gradient through the mixer, dw += those of its weights; dm (T, D).
  // passed: what it has of the states (mixer.hpp).
  MAMBA_COMPOSITION
  template <class Backend, class LayerWeights, class LayerGradients, class O, class Probe, class Passed>
  MAMBA_HOST_DEVICE static void backward(Backend& be, Rows<T, D> dn, LayerGradients dw, Gradient<O>& g,
                                         Rows<const T, D> dm, const Saved& s, Rows<const S, D> n, Sequences sequences,
                                         LayerWeights w, Probe& probe, Passed passed) {
    product_gradients<Write::set>(be, g.o, dw.template get<"mixer.out_proj.weight">(), dm, in(s.o),
                                  w.template get<"mixer.out_proj.weight">());
    probe.template visit_gradient<Point::gated_output>(view(g.o));
    gated_norm_reverse<of_norm>(be, g.y, g.z, g.g, dw.template get<"mixer.norm.weight">(), in(g.o), in(s.g),
                                static_cast<const T*>(s.rho), in(s.y), in(s.z), w.template get<"mixer.norm.weight">());
    probe.template visit_gradient<Point::scan_output>(view(g.y));
    ssd_backward<G, N>(be, g.delta, g.u, dw.template get<"mixer.A_log">(), dw.template get<"mixer.D">(), in(g.y),
                       static_cast<const T*>(s.boundaries), in(s.delta), in(s.u), sequences,
                       w.template get<"mixer.A_log">(), w.template get<"mixer.D">(), passed.states);
    probe.template visit_gradient<Point::delta>(view(g.delta));
    probe.template visit_gradient<Point::c>(columns<E + G * N, G * N>(g.u));
    probe.template visit_gradient<Point::b>(columns<E, G * N>(g.u));
    probe.template visit_gradient<Point::conv_output>(view(g.u));
    const auto& dpi = g.delta;  // in delta's place
    steps_backward(be, dpi, dw.template get<"mixer.dt_bias">(), in(g.delta), in(s.pi));
    conv_backward<A>(be, g.x, dw, g.u, s.v, in(s.x), sequences, w, passed.history);
    probe.template visit_gradient<Point::conv_input>(view(g.x));

    const auto of_n = beside(in(g.z), in(g.x), in(dpi));
    product_gradients<Write::set>(be, dn, dw.template get<"mixer.in_proj.weight">(), of_n, n,
                                  w.template get<"mixer.in_proj.weight">());
  }
};

}  // namespace mamba::network
