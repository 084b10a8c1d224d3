// The Mamba-3 mixer: n (T, D) -> m (T, D) (specification, section 14), with one input and output of a head (SISO) or
// several (MIMO). It has no convolution; what its predecessors' took, x, B and C, is taken as it is projected.
#pragma once

#include <algorithm>
#include <type_traits>

#include <mamba/core/macros.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/policies.hpp>
#include <mamba/core/views.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/fused.hpp>
#include <mamba/network/linear.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/parameters.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::network {

template <class A, Mamba3Config own>
struct MixerOf<A, Mamba3<own>> {
  static_assert(std::is_same_v<typename A::ConvKernel, LearnedConv>,
                "mamba: Mamba3 has no convolution whose kernel could be ones (specification, section 14.9)");
  static_assert(std::is_same_v<typename A::ConvResidual, NoConvResidual>,
                "mamba: Mamba3 has no convolution that could be bypassed (specification, section 14.9)");
  using S = typename A::Storage;
  using T = typename A::Scalar;
  static constexpr Config config = A::config;
  static constexpr int D = config.d_model, E = config.d_inner(), N = config.d_state;
  static constexpr int P = own.headdim == 0 ? E : own.headdim, G = own.ngroups;
  static_assert(E % P == 0, "mamba: Mamba3's headdim must divide d_inner");
  static constexpr int H = E / P, R = (std::max)(own.rank, 1);
  static_assert(H % G == 0, "mamba: Mamba3's ngroups must divide the number of heads");
  static_assert(N % 2 == 0, "mamba: Mamba3's d_state must be even: its states turn in pairs");
  static constexpr int Na = (own.rotates_all ? N : N / 2) / 2;  // angles of a head
  static_assert(Na > 0, "mamba: of a d_state of 2, half of it holds no pair of states for Mamba3 to turn");
  static constexpr bool multiple = own.rank > 0;  // MIMO, if only of rank 1
  static constexpr int C = E + 2 * R * G * N, Y = R * E, W = 2 * H + Na;
  static constexpr bool rate_per_state = false;
  static constexpr bool has_step = RotarySsdSizes<T, H, P, G, N, own.rank, Na>::token_fits_block;
  static constexpr int conv_channels = 0;
  static constexpr int widest = (std::max)({C, Y, H* Na});
  static constexpr int most_outputs = E + C + H + W;

  using Recurrence = RotarySsdSizes<T, H, P, G, N, own.rank, Na>;

  static constexpr auto parameters() {
    const auto of_heads = [](std::string_view name, Role role, int columns, double value) {
      return Parameter{.name = name, .role = role, .rank = 3, .shape = {H, R, columns}, .scale = value};
    };
    const auto scales = [&] {
      if constexpr (multiple)
        return ParameterTable<3>{of_heads("mixer.mimo_x", Role::rank_scale, P, 1.0 / R),
                                 of_heads("mixer.mimo_z", Role::rank_scale, P, 1),
                                 of_heads("mixer.mimo_o", Role::rank_scale, P, 1.0 / R)};
      else return ParameterTable<0>{};
    };
    const auto output_norm = [] {
      if constexpr (own.output_norm)
        return ParameterTable<1>{vector_parameter("mixer.norm.weight", Role::norm, E, Law::constant, 1)};
      else return ParameterTable<0>{};
    };
    return join(ParameterTable<3>{vector_parameter("mixer.dt_bias", Role::step_bias, H, Law::inverse_softplus_step, 0),
                                  of_heads("mixer.B_bias", Role::key_bias, N, 1),
                                  of_heads("mixer.C_bias", Role::key_bias, N, 1)},
                scales(),
                ParameterTable<4>{vector_parameter("mixer.D", Role::skip, H, Law::constant, 1),
                                  matrix_parameter("mixer.in_proj.weight", Role::projection, E + C + H + W, D,
                                                   Law::uniform, 1 / table_sqrt(D)),
                                  vector_parameter("mixer.B_norm.weight", Role::norm, N, Law::constant, 1),
                                  vector_parameter("mixer.C_norm.weight", Role::norm, N, Law::constant, 1)},
                output_norm(),
                ParameterTable<1>{matrix_parameter("mixer.out_proj.weight", Role::projection, D, E,
                                                   Law::uniform_by_depth, 1 / table_sqrt(E))});
  }

  // What forward leaves for backward.
  struct Saved {
    Rows<S, E> z;
    Rows<S, C> xbc;
    Rows<T, W> raw;                      // what makes rates, weights of inputs and angles
    Rows<T, H> pi, delta;                // the step before and after softplus
    Rows<T, H> log_decay, mu;            // the logarithm of the states' decay; the weight of a token's own input
    Rows<math::Turns<T>, H * Na> turns;  // angles
    Rows<S, Y> y, g;                     // the state-space model's output; normed
    Rows<S, E> o;
    T* rho = nullptr;  // (T, H)
    T* boundaries = nullptr;

    // As of Mamba-2 (network/mamba2.hpp).
    MAMBA_HOST_DEVICE void carve(Carver& memory, Carver& shared, int rows, int boundary_states, bool with_backward) {
      memory.take(z, rows), memory.take(xbc, rows), memory.take(raw, rows), memory.take(pi, rows);
      memory.take(delta, rows), memory.take(log_decay, rows), memory.take(mu, rows), memory.take(turns, rows);
      memory.take(y, rows), shared.take(o, rows);
      // Of several ranks only a probe wants a second output, and no backward pass follows that.
      if constexpr (!multiple && !own.output_norm) g = {o.data, rows};
      else if (!multiple || !with_backward) shared.take(g, rows);
      if constexpr (!multiple && own.output_norm) rho = memory.template take<T>(static_cast<std::size_t>(rows) * H);
      boundaries = boundary_states > 0 ? memory.template take<T>(static_cast<std::size_t>(boundary_states) * state_size)
                                       : nullptr;
    }
  };

  // What backward needs for itself; one serves all layers. O: what gradients are stored in that only products read.
  template <class O>
  struct Gradient {
    Rows<T, E> z, g, o;
    Rows<T, Y> y;
    Rows<T, C> xbc;
    Rows<T, W> raw;
    Rows<T, H> delta, log_decay, mu;
    Rows<T, H * Na> angles;

    MAMBA_HOST_DEVICE void carve(Carver& memory, int rows, int) {
      memory.take(z, rows), memory.take(g, rows), memory.take(o, rows), memory.take(y, rows), memory.take(xbc, rows);
      memory.take(raw, rows), memory.take(delta, rows), memory.take(log_decay, rows), memory.take(mu, rows);
      memory.take(angles, rows);
    }
  };

  // A sequence's memory between calls (network/recurrence.hpp).
  static constexpr std::size_t history_size = Recurrence::history_size, state_size = Recurrence::state_size;

  template <class LayerWeights>
  MAMBA_HOST_DEVICE static RotaryWeights<Recurrence> rotary_weights(LayerWeights w) {
    RotaryWeights<Recurrence> weights{w.template get<"mixer.B_norm.weight">(),
                                      w.template get<"mixer.C_norm.weight">(),
                                      w.template get<"mixer.B_bias">(),
                                      w.template get<"mixer.C_bias">(),
                                      w.template get<"mixer.D">(),
                                      {}};
    if constexpr (multiple) weights.mimo_x = w.template get<"mixer.mimo_x">();
    return weights;
  }
  template <class LayerGradients>
  MAMBA_HOST_DEVICE static RotaryGradients<Recurrence> rotary_gradients(LayerGradients dw) {
    RotaryGradients<Recurrence> gradients{dw.template get<"mixer.B_norm.weight">(),
                                          dw.template get<"mixer.C_norm.weight">(),
                                          dw.template get<"mixer.B_bias">(),
                                          dw.template get<"mixer.C_bias">(),
                                          dw.template get<"mixer.D">(),
                                          {}};
    if constexpr (multiple) gradients.mimo_x = dw.template get<"mixer.mimo_x">();
    return gradients;
  }

  // m (T, D) <- or += mixer(n), n (T, D).
  MAMBA_COMPOSITION
  template <Write write = Write::set, class Backend, class M, class LayerWeights, class Probe>
  MAMBA_HOST_DEVICE static void forward(Backend& be, Rows<M, D> m, Saved& s, Rows<const S, D> n, Sequences sequences,
                                        LayerWeights w, MixerState<T> state, Probe& probe) {
    const auto in_proj = w.template get<"mixer.in_proj.weight">();
    if constexpr (std::is_same_v<S, T>) {
      products(be, beside(s.z, s.xbc, s.pi, s.raw), n, in_proj);
    } else {  // step sizes, rates and angles are computed, not stored
      products(be, beside(s.z, s.xbc), n, in_proj.template row_block<0, E + C>());
      products(be, beside(s.pi, s.raw), n, in_proj.template row_block<E + C, H + W>());
    }
    if constexpr (has_step && fuses_recurrence<Backend, Probe>)
      if (state.states && n.rows == sequences.count) {
        outputs_of_tokens(be, s, sequences, w, state);
        return linear<write>(be, m, in(s.o), w.template get<"mixer.out_proj.weight">());
      }
    probe.template visit<Point::conv_output>(view(s.xbc));
    probe.template visit<Point::b>(columns<E, R * G * N>(s.xbc));
    probe.template visit<Point::c>(columns<E + R * G * N, R * G * N>(s.xbc));
    steps_forward(be, s.delta, s.pi, w.template get<"mixer.dt_bias">());
    probe.template visit<Point::delta>(view(s.delta));
    trapezoid<own.softplus_rate>(be, Recurrence{}, s.log_decay, s.mu, s.turns, state.history, in(s.delta), in(s.raw),
                                 sequences);
    probe.template visit<Point::log_decay>(view(s.log_decay));
    probe.template visit<Point::trapezoid>(view(s.mu));
    probe.template visit_angles<Point::angles>(view(s.turns));
    rotary_ssd(be, Recurrence{}, s.y, s.boundaries, state, in(s.delta), in(s.log_decay), in(s.mu), in(s.turns),
               in(s.xbc), sequences, rotary_weights(w), probe.blocked_rows());
    if constexpr (Probe::restores_rows) {
      rotary_ssd(be, Recurrence{}, s.g, s.boundaries, state, in(s.delta), in(s.log_decay), in(s.mu), in(s.turns),
                 in(s.xbc), sequences, rotary_weights(w));
      probe.restore(view(s.y), view(s.g));
    }
    probe.template visit<Point::scan_output>(view(s.y));
    gate_outputs(be, s, w);
    probe.template visit<Point::gated_output>(view(s.o));
    linear<write>(be, m, in(s.o), w.template get<"mixer.out_proj.weight">());
  }

  // residual (T, D) += mixer(rms_norm(residual)), a row being a sequence's next token.
  template <class Backend, class NormWeight, class LayerWeights>
  static void step(Backend& be, Rows<T, D> residual, Saved& s, NormWeight norm, Sequences sequences, LayerWeights w,
                   MixerState<T> state) {
    normed_products(be, beside(s.z, s.xbc), beside(s.pi, s.raw), in(residual), norm,
                    w.template get<"mixer.in_proj.weight">());
    outputs_of_tokens(be, s, sequences, w, state);
    linear<Write::add>(be, residual, in(s.o), w.template get<"mixer.out_proj.weight">());
  }

  // What layers share of Saved is that of this layer again.
  MAMBA_COMPOSITION
  template <class Backend, class LayerWeights>
  MAMBA_HOST_DEVICE static void recompute(Backend& be, const Saved& s, LayerWeights w) {
    gate_outputs(be, s, w);
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
    gate_outputs_backward(be, dw, g, s, w);
    probe.template visit_gradient<Point::scan_output>(view(g.y));
    rotary_ssd_backward(be, Recurrence{}, g.delta, g.log_decay, g.mu, g.angles, g.xbc, rotary_gradients(dw), in(g.y),
                        static_cast<const T*>(s.boundaries), in(s.delta), in(s.log_decay), in(s.mu), in(s.turns),
                        in(s.xbc), sequences, rotary_weights(w), passed);
    probe.template visit_gradient<Point::angles>(view(g.angles));
    probe.template visit_gradient<Point::trapezoid>(view(g.mu));
    probe.template visit_gradient<Point::log_decay>(view(g.log_decay));
    trapezoid_backward<own.softplus_rate>(be, Recurrence{}, g.raw, g.delta, in(g.log_decay), in(g.mu), in(g.angles),
                                          in(s.delta), in(s.raw), sequences, passed.history);
    probe.template visit_gradient<Point::delta>(view(g.delta));
    probe.template visit_gradient<Point::c>(columns<E + R * G * N, R * G * N>(g.xbc));
    probe.template visit_gradient<Point::b>(columns<E, R * G * N>(g.xbc));
    probe.template visit_gradient<Point::conv_output>(view(g.xbc));
    const auto& dpi = g.delta;  // in delta's place
    steps_backward(be, dpi, dw.template get<"mixer.dt_bias">(), in(g.delta), in(s.pi));

    const auto of_n = beside(in(g.z), in(g.xbc), in(dpi), in(g.raw));
    product_gradients<Write::set>(be, dn, dw.template get<"mixer.in_proj.weight">(), of_n, n,
                                  w.template get<"mixer.in_proj.weight">());
  }

 private:
  // s.o <- what out_proj takes of sequences' next tokens, given what in_proj made of them.
  MAMBA_COMPOSITION
  template <class Backend, class LayerWeights>
  MAMBA_HOST_DEVICE static void outputs_of_tokens(Backend& be, const Saved& s, Sequences sequences, LayerWeights w,
                                                  MixerState<T> state) {
    RotaryGate<Recurrence> gate;
    if constexpr (multiple) {
      gate.z = w.template get<"mixer.mimo_z">();
      gate.o = w.template get<"mixer.mimo_o">();
    }
    gate.norm = norm_weight(w);
    rotary_of_tokens<own.softplus_rate, own.output_norm>(be, Recurrence{}, s.o, state, in(s.pi),
                                                         w.template get<"mixer.dt_bias">(), in(s.raw), in(s.xbc),
                                                         in(s.z), sequences, rotary_weights(w), gate);
  }
  // o (T, E) <- y, normed where the policy says so, behind its gates.
  MAMBA_COMPOSITION
  template <class Backend, class LayerWeights>
  MAMBA_HOST_DEVICE static void gate_outputs(Backend& be, const Saved& s, LayerWeights w) {
    if constexpr (multiple) {
      ranked_gate<own.output_norm>(be, s.o, in(s.y), in(s.z), w.template get<"mixer.mimo_z">(),
                                   w.template get<"mixer.mimo_o">(), norm_weight(w));
    } else if constexpr (own.output_norm) {
      rms_norm<H>(be, s.g, s.rho, in(s.y), norm_weight(w));
      gate(be, s.o, in(s.g), in(s.z));
    } else {
      gate(be, s.o, in(s.y), in(s.z));
    }
  }
  // g.y, g.z <- the gradients through it, given g.o.
  MAMBA_COMPOSITION
  template <class Backend, class LayerWeights, class LayerGradients, class O>
  MAMBA_HOST_DEVICE static void gate_outputs_backward(Backend& be, LayerGradients dw, Gradient<O>& g, const Saved& s,
                                                      LayerWeights w) {
    if constexpr (multiple) {
      WeightGradient<T, 1, E> dnorm;
      if constexpr (own.output_norm) dnorm = dw.template get<"mixer.norm.weight">();
      ranked_gate_backward<own.output_norm>(
          be, g.y, g.z, dw.template get<"mixer.mimo_z">(), dw.template get<"mixer.mimo_o">(), dnorm, in(g.o), in(s.y),
          in(s.z), w.template get<"mixer.mimo_z">(), w.template get<"mixer.mimo_o">(), norm_weight(w));
    } else if constexpr (own.output_norm) {
      gate_backward(be, g.g, g.z, in(g.o), in(s.g), in(s.z));
      zero(be, g.y);
      rms_norm_backward<H>(be, g.y, dw.template get<"mixer.norm.weight">(), in(g.g), static_cast<const T*>(s.rho),
                           in(s.y), norm_weight(w));
    } else {
      gate_backward(be, g.y, g.z, in(g.o), in(s.y), in(s.z));
    }
  }
  template <class LayerWeights>
  MAMBA_HOST_DEVICE static Weight<T, 1, E> norm_weight(LayerWeights w) {
    if constexpr (own.output_norm) return w.template get<"mixer.norm.weight">();
    else return {};
  }
};

}  // namespace mamba::network
