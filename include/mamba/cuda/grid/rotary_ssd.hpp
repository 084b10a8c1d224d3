// Mamba-3's recurrence over the whole device (specification, sections 14.3 to 14.7): keys and queries of all heads are
// made first (rotary_rows.hpp), and then walks along the sequences are Mamba-2's (rotary_shape.hpp, ssd_walk.hpp), or
// go token by token (rotary_scan.hpp). Backward they are made again.
#pragma once

#include <cstddef>

#include <mamba/core/memory.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/grid.hpp>
#include <mamba/cuda/grid/linear.hpp>
#include <mamba/cuda/grid/rotary_back.hpp>
#include <mamba/cuda/grid/rotary_direction.hpp>
#include <mamba/cuda/grid/rotary_gradients.hpp>
#include <mamba/cuda/grid/rotary_memory.hpp>
#include <mamba/cuda/grid/rotary_rows.hpp>
#include <mamba/cuda/grid/rotary_scan.hpp>
#include <mamba/cuda/grid/ssd_pieces.hpp>
#include <mamba/network/mixer.hpp>
#include <mamba/network/recurrence.hpp>

namespace mamba::cuda {

namespace detail {

inline int blocks_of_warps(int items) { return (items + Block::warps - 1) / Block::warps; }

// A call of the recurrence: what it reads, and its kernels.
template <class Sizes, class S>
struct RotaryCall {
  using T = typename Sizes::Scalar;
  using I = math::Turns<T>;
  using Memory = RotaryCallMemory<S, Sizes>;
  static constexpr int H = Sizes::H, E = Sizes::E, R = Sizes::R, A = H * Sizes::Na;
  static constexpr bool chunks = rotary_runs_in_chunks<S, Sizes>;

  Grid& be;
  Rows<const T, H> delta, log_decay, mu;
  Rows<const I, A> turns;
  Rows<const S, Sizes::C> xbc;
  Sequences sequences;
  network::RotaryWeights<Sizes> w;

  std::size_t count() const { return static_cast<std::size_t>(sequences.count); }

  template <class Key>
  void operands(Rows<Key, H * Sizes::Ns> keys, Rows<Key, H * Sizes::Ns> queries, T* history) const {
    be.launch("rotary_operands", rotary_operands<Sizes, Key, S, I>, blocks_of_warps(xbc.rows * Sizes::G), 0, keys,
              queries, xbc, turns, w, history, sequences);
  }
  // to <- from and what enters of the tokens before.
  void enter(T* to, const T* from, const T* history) const {
    be.launch_over("rotary_enter", rotary_enter<Sizes>, count() * Sizes::state_size, to, from, history, delta, mu,
                   w.mimo_x, sequences);
  }
  // What walks in chunks read.
  template <class Blocked>
  RotaryWalkInputs<RotaryShape<S, Sizes>> inputs(const Memory& memory, Blocked blocked) const {
    be.launch_over("rotary_parts", rotary_parts<T, H, Blocked>, static_cast<std::size_t>(xbc.rows) * H, memory.at_once,
                   memory.later, delta, mu, blocked, sequences);
    RotaryWalkInputs<RotaryShape<S, Sizes>> inputs{
        in(memory.keys),    in(memory.queries), {},  log_decay,
        in(memory.at_once), in(memory.later),   w.d, first_term_of(be.precision())};
    if constexpr (Sizes::multiple) {
      be.launch_over("rotary_values", rotary_values<Sizes, S>,
                     static_cast<std::size_t>(memory.values.rows) * memory.values.stride, memory.values, xbc, w.mimo_x);
      inputs.values = in(memory.values);
    } else {
      inputs.values = xbc;
    }
    return inputs;
  }
  RotaryScan<Sizes, S> scan(const Memory& memory) const {
    return {in(memory.keys), in(memory.queries), delta, log_decay, mu, xbc, w};
  }

  template <class Blocked>
  void forward(Rows<S, R * E> y, network::MixerState<T> state, Blocked blocked) const {
    clear_padding(be, y);
    Memory memory(y.rows, sequences.count);
    be.carve([&](Carver& carver) { memory.carve(carver, false, false); });
    if (state.states) enter(state.states, state.states, state.history);
    operands(memory.keys, memory.queries, state.history);
    if constexpr (chunks) {
      ssd_walk_all<true>(be, RotaryForward<RotaryShape<S, Sizes>>{{inputs(memory, blocked)}, y}, memory.pieces,
                         {state.states, state.states}, nullptr, sequences);
    } else {
      if (!state.states) be.zero(memory.states, count() * Sizes::state_size);
      be.launch("rotary_scan", rotary_scan<Sizes, S, S, Blocked>, sequences.count * H, 0, y,
                state.states ? state.states : memory.states, static_cast<T*>(nullptr), scan(memory), blocked,
                sequences);
    }
    if (state.states)
      be.launch_over("rotary_leave", rotary_leave<Sizes, S>, count() * E, state.history, xbc, sequences);
  }

  // Where sequences began and the gradient of where they ended, which becomes that of where they began, with all of the
  // tokens before.
  struct Ends {
    const T* from = nullptr;
    T* adjoint = nullptr;
    bool has_future = false;
  };
  // Sets the gradients of the operands (memory.dkeys, ...), of decays, and of values, which go to dxbc or
  // memory.dvalues.
  void operands_backward(const Memory& memory, Rows<T, H> dlog_decay, Rows<T, Sizes::C> dxbc, Rows<const T, R * E> dy,
                         const Ends& ends) const {
    if constexpr (chunks) {
      using Shape = RotaryShape<S, Sizes>;
      using Gradients = RotaryGradients<Shape>;
      using Stage = SsdGradientStage<Gradients>;
      const auto read = inputs(memory, NoRows{});
      Rows<float, Shape::value_columns> dvalues;
      if constexpr (Sizes::multiple) dvalues = memory.dvalues;
      else dvalues = dxbc;
      ssd_walk_all<false>(be, RotaryForward<Shape>{{read}, {}}, memory.pieces, {ends.from, nullptr}, memory.before,
                          sequences);
      ssd_walk_all<true>(be, RotaryBackward<Shape>{{read}, dy, dvalues}, memory.pieces,
                         {ends.has_future ? ends.adjoint : nullptr, ends.adjoint}, memory.behind, sequences);
      const int slots = static_cast<int>(memory.slots);
      be.launch_shaped(
          "rotary_chunk_gradients", ssd_chunk_gradients<Gradients>, {slots * H, Stage::threads, shared_memory<Stage>},
          Gradients{
              {read}, dy, memory.dkeys, memory.dqueries, dlog_decay, memory.dat_once, memory.dlater, memory.of_skips},
          memory.before, memory.behind, SsdPassed{ends.from != nullptr, ends.has_future}, sequences);
    } else {
      const std::size_t size = count() * Sizes::state_size;
      if (ends.from) be.launch_over("copy_elements", copy_elements<T, T>, size / 4, memory.states, ends.from, size / 4);
      else be.zero(memory.states, size);
      T* const adjoint = ends.adjoint ? ends.adjoint : memory.adjoint;
      if (!ends.has_future) be.zero(adjoint, size);
      be.launch("rotary_scan", rotary_scan<Sizes, S, S, NoRows>, sequences.count * H, 0, Rows<S, R * E>{},
                memory.states, memory.kept, scan(memory), NoRows{}, sequences);
      be.launch("rotary_scan_back", rotary_scan_back<Sizes, S>, sequences.count * H, 0,
                RotaryScanGradients<Sizes>{memory.dkeys, memory.dqueries, memory.dvalues, dlog_decay, memory.dat_once,
                                           memory.dlater, memory.of_skips},
                adjoint, memory.of_stretch, static_cast<const T*>(memory.kept), dy, scan(memory), sequences);
    }
  }

  template <class Passed>
  void backward(Rows<T, H> ddelta, Rows<T, H> dlog_decay, Rows<T, H> dmu, Rows<T, A> dangles, Rows<T, Sizes::C> dxbc,
                network::RotaryGradients<Sizes> dw, Rows<const T, R * E> dy, Passed passed) const {
    Memory memory(dy.rows, sequences.count);
    be.carve([&](Carver& carver) { memory.carve(carver, true, Passed::passes); });
    memory.clear(be);
    clear_padding(be, ddelta), clear_padding(be, dlog_decay), clear_padding(be, dmu);
    clear_padding(be, dangles), clear_padding(be, dxbc);
    operands(memory.keys, memory.queries, static_cast<T*>(nullptr));

    Ends ends;
    const T* history = nullptr;
    T* of_history = nullptr;
    if constexpr (Passed::passes) {
      history = passed.history.from, of_history = passed.history.gradient;
      ends.adjoint = passed.states.gradient, ends.has_future = passed.states.gradient != nullptr;
      if (passed.states.from) {
        enter(memory.began, passed.states.from, history);
        ends.from = memory.began;
        if (!ends.adjoint) ends.adjoint = memory.adjoint;  // what entered asks for it
      }
    }
    operands_backward(memory, dlog_decay, dxbc, dy, ends);

    const RotaryPartials<Sizes>& partials = memory.partials;
    be.add(dw.d, PartialGradients<T, 1, H>{memory.of_skips, static_cast<int>(memory.slots)});
    if (of_history)
      be.launch_over("rotary_end_back", rotary_end_back<Sizes>, count() * Sizes::keys_size, memory.dkeys,
                     static_cast<const T*>(of_history), sequences);
    using Back = RotaryBackShape<Sizes>;
    be.launch_shaped("rotary_back", rotary_back<Sizes, typename Memory::Own::Key, S, I>,
                     {(partials.b_bias.count * Sizes::G + Back::teams - 1) / Back::teams, Block::threads,
                      shared_memory<typename Back::Stage>},
                     dxbc, dangles, partials, in(memory.dkeys), in(memory.dqueries), in(memory.keys),
                     in(memory.queries), turns, xbc, w);
    be.add(dw.b_bias, partials.b_bias), be.add(dw.c_bias, partials.c_bias);
    be.add(dw.b_norm, partials.b_norm), be.add(dw.c_norm, partials.c_norm);
    if constexpr (Memory::Own::keeps_value_gradients)
      be.launch_over("rotary_values_back", rotary_values_back<Sizes, S>,
                     static_cast<std::size_t>(partials.mimo_x.count) * E, dxbc, partials, in(memory.dvalues), xbc,
                     w.mimo_x);
    if constexpr (Sizes::multiple) be.add(dw.mimo_x, partials.mimo_x);
    if (of_history)
      be.launch_over("rotary_end_back_x", rotary_end_back_x<Sizes>, count() * E, dxbc,
                     static_cast<const T*>(of_history), sequences);
    const T* of_previous = nullptr;
    if (ends.from) {
      be.launch("rotary_begin_back", rotary_begin_back<Sizes>, sequences.count * H, 0, of_history, memory.of_previous,
                memory.of_factors, static_cast<const T*>(ends.adjoint), history, delta, mu, w.mimo_x, sequences);
      if constexpr (Sizes::multiple)
        be.add(dw.mimo_x, PartialGradients<T, H, R * Sizes::P>{memory.of_factors, sequences.count});
      of_previous = memory.of_previous;
    }
    be.launch_over("rotary_parts_back", rotary_parts_back<T, H>, static_cast<std::size_t>(dy.rows) * H, ddelta, dmu,
                   in(memory.dat_once), in(memory.dlater), of_previous, delta, mu, sequences);
  }
};

}  // namespace detail

// Shapes and meanings are those of rotary_ssd.hpp in block/ and eigen/.
template <class Sizes, class S, class T, class I, int YC, int H, int A, int C, class Blocked = NoRows>
void rotary_ssd(Grid& be, Sizes, Rows<S, YC> y, T* /*boundaries*/, network::MixerState<T> state, Rows<const T, H> delta,
                Rows<const T, H> log_decay, Rows<const T, H> mu, Rows<const I, A> turns, Rows<const S, C> xbc,
                Sequences sequences, network::RotaryWeights<Sizes> w, Blocked blocked = {}) {
  detail::RotaryCall<Sizes, S>{be, delta, log_decay, mu, turns, xbc, sequences, w}.forward(y, state, blocked);
}
template <class Sizes, class S, class T, class I, int YC, int H, int A, int C, class Passed = network::NoPassedStates>
void rotary_ssd_backward(Grid& be, Sizes, Rows<T, H> ddelta, Rows<T, H> dlog_decay, Rows<T, H> dmu, Rows<T, A> dangles,
                         Rows<T, C> dxbc, network::RotaryGradients<Sizes> dw, Rows<const T, YC> dy,
                         const T* /*boundaries*/, Rows<const T, H> delta, Rows<const T, H> log_decay,
                         Rows<const T, H> mu, Rows<const I, A> turns, Rows<const S, C> xbc, Sequences sequences,
                         network::RotaryWeights<Sizes> w, Passed passed = {}) {
  detail::RotaryCall<Sizes, S>{be, delta, log_decay, mu, turns, xbc, sequences, w}.backward(
      ddelta, dlog_decay, dmu, dangles, dxbc, dw, dy, passed);
}

}  // namespace mamba::cuda
