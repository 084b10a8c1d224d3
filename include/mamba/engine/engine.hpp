// What a model asks of the engine that runs it: the contract of Engine<Architecture, Backend>, of which each backend
// has one specialisation. An engine holds a model's parameters and gradients and runs the network over them.
//
//   Engine(ModelOptions)                  throws Error where the model cannot run
//   T, Arena                              the scalar; memory of the parameters' layout, copyable
//   placed(), size(), n_layers()          every parameter with name and offset; an arena's elements
//   parameters(), mutable_parameters(), parameters_changed(), gradients()
//                                         the arenas, seen from the host; whoever writes parameters says so
//   replace_parameters(source)            all parameters anew, in pieces, to where they lie: source.read(parameter,
//                                         first row, rows, to)
//   make_arena(), make_state(batch)       memory for an optimiser, for decoding (engine/arena.hpp has all of these)
//   memory_bytes()                        of everything that the engine holds, where it runs
//   bytes_with_gradients(batch, readout)  the same once it has had a batch's gradients; of it only the sizes are read
//   gradient_norm(), scale_gradients(factor), adamw(mean, square, step)
//                                         over the trained parameters; sums in double, in the order of the arena
//   trained_pieces(), offset_of_piece(piece), sum_squares(first, last, squares), scale_gradients(factor, first, last),
//   adamw(mean, square, step, first, last)
//                                         the same for pieces [first, last) of what is trained: of engines whose
//                                         trainings several processes share (SharesTraining)
//   logits(batch, readout, use, state)    use(number of the first row, Rows<const T, Vp> on the host) for all rows that
//                                         are read out, perhaps from several threads; a state is read and advanced
//   choose(batch, sampling, state, chosen)
//                                         chosen[s] <- the token behind sequence s, Choice::none where a logit is not
//                                         finite (math/choice.hpp); the state is read and advanced
//   visited_logits(batch, visitor, use)   the same for each sequence's last row, with a visitor at every point
//   blocked_logits<reading>(batch, mask, layers, use), substituted_logits(batch, reference, mask, layers, use)
//                                         the same under the interventions
//   loss_and_gradients(batch, readout, loss) -> double
//                                         gradients <- those of the sum of loss(backend, dlogits, logits, number of the
//                                         first row); CrossEntropy runs where the engine runs
//   visited_loss_and_gradients(batch, readout, visitor, loss)
//                                         the same with a visitor of the gradients
//   passed_loss_and_gradients(batch, readout, loss, state, of_state)
//                                         the same from a state, which is advanced; of_state, where given, the gradient
//                                         with respect to where it ends, becomes the one with respect to where it began
//   keep_gradients(), add_kept_gradients()
//                                         gradients += those that were kept
//   Training<Task>                        how it trains without the host: NoTraining, or a class as CudaTraining with
//                                         most_steps() and run()
//
// A call reads nothing that another call has left but parameters, gradients and derived weights. A model allows one
// call at a time.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/core/views.hpp>
#include <mamba/engine/batch.hpp>
#include <mamba/engine/probes.hpp>
#include <mamba/engine/state.hpp>
#include <mamba/math/adamw.hpp>
#include <mamba/math/choice.hpp>
#include <mamba/network/head_loss.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba {

template <class A, class Backend = typename A::Backend>
class Engine {
  static_assert(sizeof(A) == 0,
                "mamba: this compiler does not build for the model's backend; for Cuda it must be nvcc");
};

// Of which models an engine has gradients.
template <class A>
constexpr void check_has_gradients() {
  static_assert(A::trains, "mamba: Int8Weights are for inference; gradients are those of a model in float or BFloat16");
}

// For engines that the host leads step by step.
struct NoTraining {};

// choose() of an engine, from logits on the host.
template <class A, class E>
void choose_on_host(E& engine, const Batch& batch, const Sampling& sampling, State<A>& state,
                    std::span<std::int32_t> chosen) {
  const std::vector<int>& positions = state.positions();  // as they are before
  engine.logits(
      batch, Readout::last,
      [&](int first, auto logits) {
        for (int i = 0; i < logits.rows; ++i) {
          const int s = first + i, position = positions[static_cast<std::size_t>(s)] + batch.length_of(s);
          chosen[static_cast<std::size_t>(s)] =
              math::TokenChooser<typename A::Scalar>(sampling, s, position)(logits[i], A::config.vocab_size);
        }
      },
      &state);
}

namespace detail {
// Functions that fit what an engine calls, for the concept alone.
struct AnyUse {
  template <class Logits>
  void operator()(int, Logits) const {}
};
struct AnyVisitor {
  template <class T>
  void operator()(Point, int, MatrixView<T>, std::span<const int>) const {}
};
struct AnyLoss {
  template <class Backend, class Gradient, class Logits>
  double operator()(Backend&, Gradient, Logits, int) const {
    return 0;
  }
};
struct AnyTask {};
struct AnySource {
  template <class T>
  void read(const PlacedParameter&, std::size_t, std::size_t, T*) const {}
};
}  // namespace detail

template <class E, class A>
concept HoldsParameters = std::constructible_from<E, const ModelOptions&> && std::copyable<typename E::Arena> &&
                          requires(E engine, const E fixed, typename E::Arena arena, math::AdamWStep step) {
                            requires std::same_as<typename E::T, typename A::Scalar>;
                            { fixed.placed() } -> std::same_as<const std::vector<PlacedParameter>&>;
                            { fixed.size() } -> std::same_as<std::size_t>;
                            { fixed.n_layers() } -> std::same_as<int>;
                            { fixed.memory_bytes() } -> std::same_as<std::size_t>;
                            { fixed.bytes_with_gradients(Batch{}, Readout::all) } -> std::same_as<std::size_t>;
                            { fixed.parameters() } -> std::same_as<const typename E::T*>;
                            { fixed.gradients() } -> std::same_as<const typename E::T*>;
                            { engine.mutable_parameters() } -> std::same_as<typename E::T*>;
                            { engine.gradients() } -> std::same_as<typename E::T*>;
                            engine.parameters_changed();
                            engine.replace_parameters(detail::AnySource{});
                            { fixed.make_arena() } -> std::same_as<typename E::Arena>;
                            { fixed.make_state(1) } -> std::same_as<State<A>>;
                            { engine.gradient_norm() } -> std::same_as<double>;
                            engine.scale_gradients(0.5);
                            engine.adamw(arena, arena, step);
                          };
template <class E, class A>
concept RunsForward =
    requires(E engine, const Batch& batch, std::span<const std::uint8_t> mask, ChosenLayers layers, detail::AnyUse use,
             detail::AnyVisitor visitor, State<A>* state, const Sampling& sampling, std::span<std::int32_t> chosen) {
      engine.logits(batch, Readout::all, use);
      engine.logits(batch, Readout::last, use, state);
      engine.choose(batch, sampling, *state, chosen);
      engine.visited_logits(batch, visitor, use);
      engine.template blocked_logits<Reading::strict>(batch, mask, layers, use);
      engine.substituted_logits(batch, batch, mask, layers, use);
    };
template <class E, class A>
concept RunsBackward = requires(E engine, const Batch& batch, detail::AnyVisitor visitor, detail::AnyLoss loss,
                                CrossEntropy cross_entropy, State<A>& state) {
  { engine.loss_and_gradients(batch, Readout::last, cross_entropy) } -> std::same_as<double>;
  { engine.loss_and_gradients(batch, Readout::last, loss) } -> std::same_as<double>;
  { engine.visited_loss_and_gradients(batch, Readout::last, visitor, loss) } -> std::same_as<double>;
  { engine.passed_loss_and_gradients(batch, Readout::all, cross_entropy, state, &state) } -> std::same_as<double>;
  engine.keep_gradients();
  engine.add_kept_gradients();
  typename E::template Training<detail::AnyTask>;
};
// What a training asks of an engine that several processes share.
template <class E>
concept SharesTraining =
    requires(E engine, const E fixed, typename E::Arena arena, math::AdamWStep step, double* squares) {
      { fixed.trained_pieces() } -> std::same_as<int>;
      { fixed.offset_of_piece(0) } -> std::same_as<std::size_t>;
      engine.sum_squares(0, 1, squares);
      engine.scale_gradients(0.5, 0, 1);
      engine.adamw(arena, arena, step, 0, 1);
    };

// Says in words what an engine lacks.
template <class E, class A>
constexpr bool check_engine() {
  static_assert(
      HoldsParameters<E, A>,
      "mamba: the engine lacks what holds parameters (engine/engine.hpp lists it, engine/arena.hpp has most of it)");
  static_assert(
      RunsForward<E, A>,
      "mamba: the engine lacks a forward pass: logits, choose, visited_logits, blocked_logits or substituted_logits "
      "(engine/engine.hpp)");
  static_assert(RunsBackward<E, A>,
                "mamba: the engine lacks a backward pass: loss_and_gradients, visited_loss_and_gradients, "
                "passed_loss_and_gradients, keep_gradients, add_kept_gradients or Training (engine/engine.hpp)");
  return true;
}

}  // namespace mamba
