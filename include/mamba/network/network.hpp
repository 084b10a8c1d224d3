// The whole network, written once: embedding, a stack of pre-norm blocks, the head; forward beside backward.
//
// Everything here is composition. What computes is a backend: the unqualified calls below (embedding, rms_norm, linear,
// selective_scan, ...) find the functions that take that backend first; backend.hpp lists them. The rules for gradients
// hold for all of them: weight gradients add, activation gradients are set, the residual stream's gradient adds.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>

#include <mamba/core/error.hpp>
#include <mamba/core/macros.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/policies.hpp>
#include <mamba/core/views.hpp>
#include <mamba/network/backend.hpp>
#include <mamba/network/embedding.hpp>
#include <mamba/network/fused.hpp>
#include <mamba/network/head.hpp>
#include <mamba/network/linear.hpp>
#include <mamba/network/mamba1.hpp>
#include <mamba/network/mamba2.hpp>
#include <mamba/network/mamba3.hpp>
#include <mamba/network/parameters.hpp>
#include <mamba/network/probe.hpp>
#include <mamba/network/tile.hpp>

namespace mamba::network {

// The tables of a model's parameters, in the order of their arena: front, the layers one behind the other, back.
template <class A>
struct Tables {
  static constexpr int D = A::config.d_model;
  static constexpr auto front = embedding_parameters<A>();
  static constexpr auto layer = join(
      ParameterTable<1>{vector_parameter("norm.weight", Role::norm, D, Law::constant, 1)}, MixerOf<A>::parameters());
  static constexpr auto back = head_parameters<A>();

  static constexpr std::size_t front_size = total_size(front), layer_size = total_size(layer),
                               back_size = total_size(back);
  static constexpr std::size_t size(int n_layers) {
    return front_size + static_cast<std::size_t>(n_layers) * layer_size + back_size;
  }
  MAMBA_HOST_DEVICE static constexpr std::size_t layer_offset(int l) {
    return front_size + static_cast<std::size_t>(l) * layer_size;
  }
  MAMBA_HOST_DEVICE static constexpr std::size_t back_offset(int n_layers) { return layer_offset(n_layers); }
};

// Calls f(PlacedParameter) for every parameter of a model, in the order of the specification's section 4.2.
template <class A, class F>
void for_each_parameter(int n_layers, F&& f) {
  std::size_t offset = 0;
  const auto walk = [&](const auto& table, const std::string& prefix) {
    for (const Parameter& p : table) {
      f(PlacedParameter{prefix + std::string(p.name), p, offset});
      offset += p.arena_size();
    }
  };
  walk(Tables<A>::front, "");
  for (int l = 0; l < n_layers; ++l) walk(Tables<A>::layer, "backbone.layers." + std::to_string(l) + ".");
  walk(Tables<A>::back, "");
}

// The arena of a model's weights with the derived weights beside it, and an arena of gradients.
template <class A>
struct ModelWeights {
  using S = typename A::WeightStorage;
  using T = typename A::Scalar;
  WeightPointers<S, T> pointers;
  int n_layers = 0;

  MAMBA_HOST_DEVICE auto front() const { return Weights<S, T, Tables<A>::front>{pointers}; }
  MAMBA_HOST_DEVICE auto layer(int l) const {
    return Weights<S, T, Tables<A>::layer>{pointers.at(Tables<A>::layer_offset(l))};
  }
  MAMBA_HOST_DEVICE auto back() const {
    return Weights<S, T, Tables<A>::back>{pointers.at(Tables<A>::back_offset(n_layers))};
  }
};
template <class A>
struct ModelGradients {
  using T = typename A::Scalar;
  T* values = nullptr;
  int n_layers = 0;

  MAMBA_HOST_DEVICE auto front() const { return Gradients<T, Tables<A>::front>{values}; }
  MAMBA_HOST_DEVICE auto layer(int l) const {
    return Gradients<T, Tables<A>::layer>{values + Tables<A>::layer_offset(l)};
  }
  MAMBA_HOST_DEVICE auto back() const {
    return Gradients<T, Tables<A>::back>{values + Tables<A>::back_offset(n_layers)};
  }
};

// Whether a backend has all that a model asks for; what it lacks does not compile, in words (backend.hpp).
template <class A, class Backend>
constexpr bool check_backend() {
  return check_backend<Backend, typename A::Scalar, A::config.d_model, A::config.padded_vocab_size(),
                       MixerOf<A>::conv_channels, A::config.d_conv, typename MixerOf<A>::Recurrence>();
}

inline constexpr int head_rows = 64;  // rows of logits that exist at once, unless a backend wants others

// A layer's activations.
template <class A>
struct LayerActivations {
  using T = typename A::Scalar;
  static constexpr int D = A::config.d_model;
  Rows<typename A::Storage, D> normed;
  T* rho = nullptr;  // (T)
  typename MixerOf<A>::Saved mixer;

  // shared: for what the mixer computes again for the backward pass; it may be the same as memory.
  MAMBA_HOST_DEVICE void carve(Carver& memory, Carver& shared, int rows, int boundary_states, bool with_backward) {
    memory.take(normed, rows);
    rho = memory.template take<T>(static_cast<std::size_t>(rows));
    mixer.carve(memory, shared, rows, boundary_states, with_backward);
  }
};

// What a backend keeps for a backward pass, and what it stores gradients in that nothing but products read: of all
// layers everything, as it is computed; or, where layers share what is cheap to compute again, as products take it.
struct KeepsAll {
  static constexpr bool recomputes = false;
  template <class A>
  using OfProducts = typename A::Scalar;
};
struct KeepsLittle {
  static constexpr bool recomputes = true;
  template <class A>
  using OfProducts = typename A::Storage;
};

// The head's activations, for as many rows as exist at once; the logits' gradient is stored as O.
template <class A, class O = typename A::Scalar>
struct HeadActivations {
  using T = typename A::Scalar;
  static constexpr int D = A::config.d_model, Vp = A::config.padded_vocab_size();
  Rows<typename A::Storage, D> normed;
  Rows<T, D> input, dnormed, dinput;
  Rows<T, Vp> logits;
  Rows<O, Vp> dlogits;
  T* rho = nullptr;

  MAMBA_HOST_DEVICE void carve(Carver& memory, int rows, bool with_backward) {
    memory.take(input, rows), memory.take(normed, rows), memory.take(logits, rows);
    rho = memory.template take<T>(static_cast<std::size_t>(rows));
    if (with_backward) memory.take(dnormed, rows), memory.take(dinput, rows), memory.take(dlogits, rows);
  }
  MAMBA_HOST_DEVICE HeadActivations resized(int rows) const {
    HeadActivations head = *this;
    head.input.rows = head.normed.rows = head.dnormed.rows = head.dinput.rows = head.logits.rows = head.dlogits.rows =
        rows;
    return head;
  }
};

// All activations of a tile: what is kept for a backward pass as it is stored, the residual stream, logits and
// gradients as they are computed, but those that only products read (Keep). With a backward pass to follow every layer
// keeps its own; without, all share one. Where the backend keeps little, layers share, too, what it costs little to
// compute again. What changes from layer to layer is a member too, for a backend keeps the object where it costs no
// registers.
template <class A, class Keep = KeepsAll>
class Activations {
 public:
  using T = typename A::Scalar;
  using OfProducts = typename Keep::template OfProducts<A>;
  static constexpr int D = A::config.d_model;

  // Over a null block it only counts: bytes() says how much is needed.
  MAMBA_HOST_DEVICE Activations(void* block, int n_layers, int rows, int boundary_states, bool with_backward,
                                int rows_of_head = head_rows)
      : n_layers_(n_layers),
        rows_(rows),
        rows_of_head_(rows_of_head),
        boundary_states_(with_backward ? boundary_states : 0),
        with_backward_(with_backward) {
    Carver memory(block);
    residuals_ =
        memory.template take<T>(static_cast<std::size_t>(rows) *
                                static_cast<std::size_t>(with_backward ? n_layers + 1 : 1) * Rows<T, D>::stride);
    memory.take(mixed, rows);
    head.carve(memory, rows_of_head, with_backward);
    if (with_backward) {
      memory.take(dresidual, rows), memory.take(dnormed, rows);
      gradient.carve(memory, rows, boundary_states_);
    }
    LayerActivations<A> one;
    Carver counter;
    if constexpr (Keep::recomputes) {
      Carver shared_counter;
      one.carve(counter, shared_counter, rows, boundary_states_, with_backward);
      shared_.begin = memory.template take<std::byte>(shared_counter.used());
    } else {
      one.carve(counter, counter, rows, boundary_states_, with_backward);
    }
    layers_ = block ? static_cast<std::byte*>(block) + memory.used() : nullptr;
    layer_bytes_ = counter.used();
    bytes_ = memory.used() + layer_bytes_ * static_cast<std::size_t>(with_backward ? n_layers : 1);
  }

  MAMBA_HOST_DEVICE std::size_t bytes() const { return bytes_; }

  // r_l (T, D), l = 0..M.
  MAMBA_HOST_DEVICE Rows<T, D> residual(int l) const {
    return {residuals_ + (with_backward_ ? static_cast<std::ptrdiff_t>(l) * rows_ * Rows<T, D>::stride : 0), rows_};
  }
  MAMBA_HOST_DEVICE LayerActivations<A> layer(int l) const {
    LayerActivations<A> activations;
    Carver memory(layers_ + (with_backward_ ? static_cast<std::size_t>(l) * layer_bytes_ : 0));
    if constexpr (Keep::recomputes) {
      Carver shared(shared_.begin);
      activations.carve(memory, shared, rows_, boundary_states_, with_backward_);
    } else {
      activations.carve(memory, memory, rows_, boundary_states_, with_backward_);
    }
    return activations;
  }
  // Whether each layer has its own, or all share one, and one residual stream.
  MAMBA_HOST_DEVICE bool keeps_layers() const { return with_backward_; }
  MAMBA_HOST_DEVICE int n_layers() const { return n_layers_; }
  MAMBA_HOST_DEVICE int rows_of_head() const { return rows_of_head_; }

  LayerActivations<A> current;         // of the layer at hand
  Rows<typename A::Storage, D> mixed;  // a mixer's output
  HeadActivations<A, OfProducts> head;
  Rows<T, D> dresidual, dnormed;
  typename MixerOf<A>::template Gradient<OfProducts> gradient;

 private:
  struct Nothing {};
  struct Shared {
    std::byte* begin = nullptr;
  };

  int n_layers_, rows_, rows_of_head_, boundary_states_;
  bool with_backward_;
  [[no_unique_address]] std::conditional_t<Keep::recomputes, Shared, Nothing> shared_;
  T* residuals_;
  std::byte* layers_ = nullptr;
  std::size_t layer_bytes_ = 0, bytes_ = 0;
};

// The columns of a tile's widest matrix.
template <class A>
inline constexpr int widest = (std::max)({A::config.d_model, A::config.padded_vocab_size(), MixerOf<A>::widest});

// How many rows a tile on a GPU may have: kernels count its elements in 32 bits, and a block's threads beyond the last.
template <class A>
constexpr int most_tile_rows() {
  return (0x7FFFFFFF - 4096) / padded(widest<A>);
}
// Throws Error for a tile, such as a single sequence, of more.
template <class A>
void check_tile_size(int rows) {
  require(rows <= most_tile_rows<A>(), "a sequence of ", rows, " tokens is too long for this model on a GPU: it reads ",
          most_tile_rows<A>(), " at most");
}

// residual(M) <- the stack over a tile's tokens (specification, section 3).
MAMBA_COMPOSITION
template <class A, class Keep, class Backend, class Probe>
MAMBA_HOST_DEVICE void forward(Backend& be, Activations<A, Keep>& activations, const Tile& tile, ModelWeights<A> w,
                               TileStates<typename A::Scalar> states, Probe& probe) {
  embed<A>(be, activations.residual(0), tile.tokens, tile.sequences, tile.positions, w.front());
  for (int l = 0; l < w.n_layers; ++l) {
    probe.layer(l);
    assign(be, activations.current, activations.layer(l));
    auto& layer = activations.current;
    if constexpr (fuses_token_steps<A, Backend, Probe>)
      if (states.states && !activations.keeps_layers() &&
          is_token_step<typename A::WeightStorage>(be, activations.residual(l).rows, tile.sequences)) {
        MixerOf<A>::step(be, activations.residual(l), layer.mixer, w.layer(l).template get<"norm.weight">(),
                         tile.sequences, w.layer(l), states.layer(l));
        continue;
      }
    probe.template visit<Point::residual>(view(activations.residual(l)));
    rms_norm(be, layer.normed, layer.rho, in(activations.residual(l)), w.layer(l).template get<"norm.weight">());
    probe.template visit<Point::normed_input>(view(layer.normed));
    if constexpr (Backend::adds_to_residual)  // with a probe or without: both are the same model
      if (!activations.keeps_layers()) {
        MixerOf<A>::template forward<Write::add>(be, activations.residual(l), layer.mixer, in(layer.normed),
                                                 tile.sequences, w.layer(l), states.layer(l), probe);
        continue;
      }
    MixerOf<A>::forward(be, activations.mixed, layer.mixer, in(layer.normed), tile.sequences, w.layer(l),
                        states.layer(l), probe);
    add(be, activations.residual(l + 1), in(activations.residual(l)), in(activations.mixed));
  }
}

// gradients += those of all layers and of the embedding's look-up, given dresidual, the gradient of residual(M).
// passage: what it has of the sequences' states (NoPassage, Passage).
MAMBA_COMPOSITION
template <class A, class Keep, class Backend, class Probe, class StatePassage = NoPassage>
MAMBA_HOST_DEVICE void backward(Backend& be, ModelGradients<A> dw, Activations<A, Keep>& activations, const Tile& tile,
                                ModelWeights<A> w, Probe& probe, StatePassage passage = {}) {
  for (int l = w.n_layers - 1; l >= 0; --l) {
    probe.layer(l);
    assign(be, activations.current, activations.layer(l));
    const auto& layer = activations.current;
    if constexpr (Keep::recomputes) MixerOf<A>::recompute(be, layer.mixer, w.layer(l));
    MixerOf<A>::backward(be, activations.dnormed, dw.layer(l), activations.gradient, in(activations.dresidual),
                         layer.mixer, in(layer.normed), tile.sequences, w.layer(l), probe, passage.layer(l));
    probe.template visit_gradient<Point::normed_input>(view(activations.dnormed));
    rms_norm_backward(be, activations.dresidual, dw.layer(l).template get<"norm.weight">(), in(activations.dnormed),
                      static_cast<const typename A::Scalar*>(layer.rho), in(activations.residual(l)),
                      w.layer(l).template get<"norm.weight">());
    probe.template visit_gradient<Point::residual>(view(activations.dresidual));
  }
  embed_backward<A>(be, dw.front(), in(activations.dresidual), tile.tokens, tile.sequences, tile.positions);
}

// Hands the logits of the tile's readout rows to use(first readout of the tile, head), some rows at a time.
MAMBA_COMPOSITION
template <class A, class Keep, class Backend, class Use>
MAMBA_HOST_DEVICE void read_out(Backend& be, Activations<A, Keep>& activations, const Tile& tile, ModelWeights<A> w,
                                Use&& use) {
  auto& head = activations.head;
  const int at_once = activations.rows_of_head();
  for (int first = 0; first < tile.readouts; first += at_once) {
    assign(be, head, head.resized(tile.readouts - first < at_once ? tile.readouts - first : at_once));
    gather(be, head.input, in(activations.residual(w.n_layers)), tile.readout + first);
    const auto norm = w.back().template get<"backbone.norm_f.weight">();
    if constexpr (Backend::fuses_token_steps)
      if (!activations.keeps_layers() && has_few_rows<typename A::WeightStorage>(be, head.input.rows)) {
        normed_linear(be, head.logits, in(head.input), norm, head_weight<A>(w));
        use(first, head);
        continue;
      }
    rms_norm(be, head.normed, head.rho, in(head.input), norm);
    linear(be, head.logits, in(head.normed), head_weight<A>(w));
    use(first, head);
  }
}

// The head's own backward pass for the rows at hand: dresidual's rows <- the gradient of residual(M), given dlogits.
MAMBA_COMPOSITION
template <class A, class Keep, class Backend>
MAMBA_HOST_DEVICE void read_out_backward(Backend& be, ModelGradients<A> dw, Activations<A, Keep>& activations,
                                         const int* rows, ModelWeights<A> w) {
  auto& head = activations.head;
  product_gradients<Write::set>(be, head.dnormed, head_weight<A>(dw), in(head.dlogits), in(head.normed),
                                head_weight<A>(w));
  zero(be, head.dinput);
  rms_norm_backward(be, head.dinput, dw.back().template get<"backbone.norm_f.weight">(), in(head.dnormed),
                    static_cast<const typename A::Scalar*>(head.rho), in(head.input),
                    w.back().template get<"backbone.norm_f.weight">());
  scatter(be, activations.dresidual, in(head.dinput), rows);
}

// The loss of the head's rows at hand and its gradient. Not a lambda: nvcc checks the calls of those.
template <class A, class Keep, class Backend, class Loss>
struct HeadLoss {
  Backend& be;
  ModelGradients<A> dw;
  Activations<A, Keep>& activations;
  const Tile& tile;
  ModelWeights<A> w;
  Loss& loss;
  double sum = 0;

  MAMBA_COMPOSITION
  MAMBA_HOST_DEVICE void operator()(int first, HeadActivations<A, typename Keep::template OfProducts<A>>& head) {
    sum += loss(head.dlogits, in(head.logits), tile.first_readout + first);
    read_out_backward(be, dw, activations, tile.readout + first, w);
  }
};

// Forward, the loss, backward: gradients += the tile's; returns its share of the loss.
//   loss(dlogits, logits, number of the first row in the call): writes the gradient, returns the rows' share
MAMBA_COMPOSITION
template <class A, class Keep, class Backend, class Loss, class Probe>
MAMBA_HOST_DEVICE double loss_and_gradients(Backend& be, ModelGradients<A> dw, Activations<A, Keep>& activations,
                                            const Tile& tile, ModelWeights<A> w, Loss&& loss, Probe& probe) {
  forward(be, activations, tile, w, TileStates<typename A::Scalar>{}, probe);
  zero(be, activations.dresidual);
  HeadLoss<A, Keep, Backend, std::remove_reference_t<Loss>> head_loss{be, dw, activations, tile, w, loss};
  read_out(be, activations, tile, w, head_loss);
  backward(be, dw, activations, tile, w, probe);
  return head_loss.sum;
}

// A forward pass from a state, of which a backward pass needs what lies between: no NoProbe, which would allow it to be
// fused away (fused.hpp).
struct BackwardFollows : NoProbe {};

// The same from the sequences' states, which become those at their ends; passage holds a copy of where they begin.
MAMBA_COMPOSITION
template <class A, class Keep, class Backend, class Loss>
MAMBA_HOST_DEVICE double loss_and_gradients(Backend& be, ModelGradients<A> dw, Activations<A, Keep>& activations,
                                            const Tile& tile, ModelWeights<A> w, Loss&& loss,
                                            TileStates<typename A::Scalar> states,
                                            Passage<typename A::Scalar> passage) {
  BackwardFollows probe;
  forward(be, activations, tile, w, states, probe);
  zero(be, activations.dresidual);
  HeadLoss<A, Keep, Backend, std::remove_reference_t<Loss>> head_loss{be, dw, activations, tile, w, loss};
  read_out(be, activations, tile, w, head_loss);
  backward(be, dw, activations, tile, w, probe, passage);
  return head_loss.sum;
}

}  // namespace mamba::network
