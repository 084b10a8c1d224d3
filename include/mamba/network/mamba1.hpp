// The Mamba-1 mixer: n (T, D) -> m (T, D) (specification, sections 2 and 5; Gu and Dao 2023, algorithm 2).
#pragma once

#include <algorithm>

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

template <class A>
struct MixerOf<A, Mamba1> {
  using S = typename A::Storage;
  using T = typename A::Scalar;
  static constexpr Config config = A::config;
  static constexpr int D = config.d_model, E = config.d_inner(), N = config.d_state, K = config.d_conv,
                       R = config.dt_rank();

  // In mamba_ssm's order, which is the order in which initial values are drawn.
  static constexpr auto parameters() {
    const double inner_bound = 1 / table_sqrt(E);
    return join(
        ParameterTable<3>{
            matrix_parameter("mixer.A_log", Role::rate, E, N, Law::log_of_state, 0, Derived::rate),
            vector_parameter("mixer.D", Role::skip, E, Law::constant, 1),
            matrix_parameter("mixer.in_proj.weight", Role::projection, 2 * E, D, Law::uniform, 1 / table_sqrt(D))},
        conv_parameters<A>(E, K),
        ParameterTable<4>{
            matrix_parameter("mixer.x_proj.weight", Role::projection, R + 2 * N, E, Law::uniform, inner_bound),
            matrix_parameter("mixer.dt_proj.weight", Role::projection, E, R, Law::uniform, 1 / table_sqrt(R)),
            vector_parameter("mixer.dt_proj.bias", Role::step_bias, E, Law::inverse_softplus_step, 0),
            matrix_parameter("mixer.out_proj.weight", Role::projection, D, E, Law::uniform_by_depth, inner_bound)});
  }

  // What forward leaves for backward.
  struct Saved {
    Rows<S, E> x, z;  // the two halves of in_proj's output
    Rows<S, E> v, u;  // the convolution's output before and after SiLU
    Rows<S, R> r;     // x_proj's output, in three
    Rows<S, N> b, c;
    Rows<T, E> pi, delta;  // dt_proj's output before and after softplus
    Rows<T, E> y;          // the scan's output, which adds up over states
    Rows<S, E> o;          // the same, gated
    T* boundaries = nullptr;

    // boundary_states: how many states the scan keeps; 0 when no backward pass follows. shared: for what recompute()
    // computes again, and for v where only a fused convolution would use it; it may be the same as memory.
    MAMBA_HOST_DEVICE void carve(Carver& memory, Carver& shared, int rows, int boundary_states,
                                 bool /*with_backward*/) {
      memory.take(x, rows), memory.take(z, rows), (keeps_conv_output<A> ? memory : shared).take(v, rows),
          memory.take(u, rows), memory.take(r, rows);
      memory.take(b, rows), memory.take(c, rows), memory.take(pi, rows), shared.take(delta, rows), memory.take(y, rows),
          shared.take(o, rows);
      boundaries = boundary_states > 0
                       ? memory.template take<T>(static_cast<std::size_t>(boundary_states) * E * padded(N))
                       : nullptr;
    }
  };

  // What backward needs for itself; one serves all layers. O: what gradients are stored in that only products read.
  template <class O>
  struct Gradient {
    Rows<T, E> x, z, u, delta, y, o;
    Rows<O, E> pi;  // in delta's place where both are stored alike
    Rows<T, R> r;
    Rows<T, N> b, c;
    T* carry = nullptr;

    MAMBA_HOST_DEVICE void carve(Carver& memory, int rows, int boundary_states) {
      memory.take(x, rows), memory.take(z, rows), memory.take(u, rows), memory.take(delta, rows), memory.take(y, rows),
          memory.take(o, rows);
      memory.take(r, rows), memory.take(b, rows), memory.take(c, rows);
      if constexpr (std::is_same_v<O, T>) pi = delta;
      else memory.take(pi, rows);
      carry = boundary_states > 0 ? memory.template take<T>(static_cast<std::size_t>(E) * padded(N)) : nullptr;
    }
  };

  static constexpr bool rate_per_state = true;  // A (E, N), and S holds the step sizes; else A (H)
  static constexpr bool has_step = true;
  static constexpr int conv_channels = E;               // of the convolution
  static constexpr int widest = (std::max)({E, N, R});  // columns of the widest rows above
  static constexpr int most_outputs = (std::max)(2 * E, R + 2 * N);

  // A sequence's state between calls: the last K-1 rows of x, and (E, N).
  static constexpr std::size_t history_size = static_cast<std::size_t>(K - 1) * padded(E);
  static constexpr std::size_t state_size = static_cast<std::size_t>(E) * padded(N);

  using Recurrence = SelectiveScanSizes<T, E, N>;

  // m (T, D) <- or += mixer(n), n (T, D).
  MAMBA_COMPOSITION
  template <Write write = Write::set, class Backend, class M, class LayerWeights, class Probe>
  MAMBA_HOST_DEVICE static void forward(Backend& be, Rows<M, D> m, Saved& s, Rows<const S, D> n, Sequences sequences,
                                        LayerWeights w, MixerState<T> state, Probe& probe) {
    products(be, beside(s.x, s.z), n, w.template get<"mixer.in_proj.weight">());
    probe.template visit<Point::conv_input>(view(s.x));
    conv_forward<A>(be, s.v, s.u, in(s.x), sequences, w, state.history);
    probe.template visit<Point::conv_output>(view(s.u));
    products(be, beside(s.r, s.b, s.c), in(s.u), w.template get<"mixer.x_proj.weight">());
    probe.template visit<Point::b>(view(s.b));
    probe.template visit<Point::c>(view(s.c));
    if constexpr (fuses_recurrence<Backend, Probe>)
      if (state.states) {
        scan_gated(be, s, sequences, w, state);
        return linear<write>(be, m, in(s.o), w.template get<"mixer.out_proj.weight">());
      }
    linear(be, s.pi, in(s.r), w.template get<"mixer.dt_proj.weight">());
    steps_forward(be, s.delta, s.pi, w.template get<"mixer.dt_proj.bias">());
    probe.template visit<Point::delta>(view(s.delta));
    selective_scan(be, s.y, s.boundaries, state.states, in(s.delta), in(s.u), in(s.b), in(s.c), sequences,
                   w.template get<"mixer.A_log">(), w.template get<"mixer.D">(), probe.blocked_rows());
    if constexpr (Probe::restores_rows) {  // no backward pass follows, which would want pi
      selective_scan(be, s.pi, s.boundaries, state.states, in(s.delta), in(s.u), in(s.b), in(s.c), sequences,
                     w.template get<"mixer.A_log">(), w.template get<"mixer.D">());
      probe.restore(view(s.y), view(s.pi));
    }
    probe.template visit<Point::scan_output>(view(s.y));
    gate(be, s.o, in(s.y), in(s.z));
    probe.template visit<Point::gated_output>(view(s.o));
    linear<write>(be, m, in(s.o), w.template get<"mixer.out_proj.weight">());
  }

  // residual (T, D) += mixer(rms_norm(residual)), a row being a sequence's next token.
  template <class Backend, class NormWeight, class LayerWeights>
  static void step(Backend& be, Rows<T, D> residual, Saved& s, NormWeight norm, Sequences sequences, LayerWeights w,
                   MixerState<T> state) {
    normed_linear_conv<bypass_of<typename A::ConvResidual>()>(
        be, InnerRows<S, E, E, 0>{s.z, s.u, {}}, in(residual), norm, w.template get<"mixer.in_proj.weight">(),
        w.template get<"mixer.conv1d.weight">(), w.template get<"mixer.conv1d.bias">(), state.history);
    products(be, beside(s.r, s.b, s.c), in(s.u), w.template get<"mixer.x_proj.weight">());
    scan_gated(be, s, sequences, w, state);
    linear<Write::add>(be, residual, in(s.o), w.template get<"mixer.out_proj.weight">());
  }

  // What layers share of Saved is that of this layer again.
  MAMBA_COMPOSITION
  template <class Backend, class LayerWeights>
  MAMBA_HOST_DEVICE static void recompute(Backend& be, const Saved& s, LayerWeights) {
    softplus(be, s.delta, in(s.pi));
    gate(be, s.o, in(s.y), in(s.z));
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
    gate_backward(be, g.y, g.z, in(g.o), in(s.y), in(s.z));
    probe.template visit_gradient<Point::scan_output>(view(g.y));
    selective_scan_backward(be, g.delta, g.u, g.b, g.c, dw.template get<"mixer.A_log">(), dw.template get<"mixer.D">(),
                            in(g.y), static_cast<const T*>(s.boundaries), g.carry, in(s.delta), in(s.u), in(s.b),
                            in(s.c), sequences, w.template get<"mixer.A_log">(), w.template get<"mixer.D">(),
                            passed.states);
    probe.template visit_gradient<Point::delta>(view(g.delta));
    probe.template visit_gradient<Point::c>(view(g.c));
    probe.template visit_gradient<Point::b>(view(g.b));
    steps_backward(be, g.pi, dw.template get<"mixer.dt_proj.bias">(), in(g.delta), in(s.pi));
    product_gradients<Write::set>(be, g.r, dw.template get<"mixer.dt_proj.weight">(), in(g.pi), in(s.r),
                                  w.template get<"mixer.dt_proj.weight">());

    const auto of_u = beside(in(g.r), in(g.b), in(g.c));
    product_gradients<Write::add>(be, g.u, dw.template get<"mixer.x_proj.weight">(), of_u, in(s.u),
                                  w.template get<"mixer.x_proj.weight">());
    probe.template visit_gradient<Point::conv_output>(view(g.u));
    conv_backward<A>(be, g.x, dw, g.u, s.v, in(s.x), sequences, w, passed.history);
    probe.template visit_gradient<Point::conv_input>(view(g.x));

    const auto of_n = beside(in(g.x), in(g.z));
    product_gradients<Write::set>(be, dn, dw.template get<"mixer.in_proj.weight">(), of_n, n,
                                  w.template get<"mixer.in_proj.weight">());
  }

 private:
  // o <- all that lies between x_proj and out_proj, in one piece.
  template <class Backend, class LayerWeights>
  static void scan_gated(Backend& be, const Saved& s, Sequences sequences, LayerWeights w, MixerState<T> state) {
    linear_scan_gated(be, s.o, s.y, s.pi, state.states, in(s.r), w.template get<"mixer.dt_proj.weight">(),
                      w.template get<"mixer.dt_proj.bias">(), in(s.u), in(s.z), in(s.b), in(s.c), sequences,
                      w.template get<"mixer.A_log">(), w.template get<"mixer.D">());
  }
};

}  // namespace mamba::network
