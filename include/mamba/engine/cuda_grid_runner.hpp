// Runs the network at the scope of the whole device, over weights that somebody else holds: the whole batch as one tile
// where that is no larger than a tile may be, else halves of it, and halves of those.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/backend.hpp>
#include <mamba/cuda/runtime/buffer.hpp>
#include <mamba/eigen/backend.hpp>
#include <mamba/engine/batch.hpp>
#include <mamba/engine/cuda_grid_sizes.hpp>
#include <mamba/engine/cuda_packed.hpp>
#include <mamba/engine/cuda_probes.hpp>
#include <mamba/engine/cuda_recorded_steps.hpp>
#include <mamba/engine/cuda_state.hpp>
#include <mamba/engine/packing.hpp>
#include <mamba/network/head_loss.hpp>
#include <mamba/network/network.hpp>

namespace mamba {

// The calls are those of an engine, on the queue's device, which is current; use(number of the first row, logits) gets
// rows on the host.
template <class A>
class GridRunner {
  static_assert(network::check_backend<A, cuda::Grid>());

 public:
  using S = typename A::Storage;
  using T = typename A::Scalar;
  using Weights = network::ModelWeights<A>;
  using Sizes = GridTileSizes<A>;

  // tile_bytes: of the activations of a tile of more than one sequence, at most.
  GridRunner(const cuda::QueuePointer& queue, std::size_t tile_bytes, Products products)
      : queue_(queue), tile_bytes_(tile_bytes), grid_(queue, std::is_same_v<T, float> ? products : Products::exact) {}

  std::size_t memory_bytes() const {
    std::size_t sum = grid_.memory_bytes() + tiles_.bytes();
    for (const auto* buffer : {&workspace_, &labels_, &mask_, &reference_, &record_, &choice_positions_, &chosen_})
      sum += buffer->bytes();
    return sum + (began_ ? began_->bytes() : 0);
  }

  // What a runner holds once it has had such a batch's gradients.
  static std::size_t bytes_with_gradients(int n_layers, const Batch& batch, Readout readout, std::size_t tile_bytes) {
    std::vector<int> firsts;
    const int per_tile = Sizes::sequences_of_tile(firsts, n_layers, batch, true, tile_bytes);
    return Sizes::bytes_of_tile(firsts, n_layers, per_tile, batch.length, per_tile * readouts_of(batch.length, readout),
                                true);
  }

  template <class Use>
  void logits(Weights w, const Batch& batch, Readout readout, Use&& use, State<A>* state) {
    logits_on_device(w, batch, readout, state, [&](int first, Rows<const T, Vp> logits) {
      download(logits_, logits);
      use(first, Rows<const T, Vp>{logits_.data(), logits.rows});
    });
  }

  // What comes to the host are the tokens.
  void choose(Weights w, const Batch& batch, const Sampling& sampling, State<A>& state,
              std::span<std::int32_t> chosen) {
    positions_.clear();
    for (int s = 0; s < batch.batch; ++s)
      positions_.push_back(state.positions()[static_cast<std::size_t>(s)] + batch.length_of(s));
    choice_positions_.upload(positions_.data(), positions_.size());
    chosen_.reserve(chosen.size() * sizeof(std::int32_t));
    logits_on_device(w, batch, Readout::last, &state, [&](int first, Rows<const T, Vp> logits) {
      cuda::choose_tokens(grid_, chosen_.as<int>() + first, logits, choice_positions_.as<int>() + first, first,
                          sampling, A::config.vocab_size);
    });
    chosen_.download(chosen.data(), chosen.size());
  }

  template <Reading reading, class Use>
  void blocked_logits(Weights w, const Batch& batch, std::span<const std::uint8_t> mask, ChosenLayers layers,
                      Use&& use) {
    std::vector<std::uint8_t> masks = rows_up_to_masked(mask, batch.length);
    masks.insert(masks.begin(), mask.begin(), mask.end());
    mask_.upload(masks.data(), masks.size());
    each_tile(w, batch, Readout::last, false,
              [&](const network::Tile& tile, auto& activations, const TileSequences& here) {
                const std::uint8_t* const own =
                    mask_.template as<std::uint8_t>() + static_cast<std::ptrdiff_t>(here.first) * batch.length;
                BlockingProbe<reading, DeviceRows> probe(rows_, own, own + mask.size(), layers);
                run_forward(w, tile, activations, {}, probe, use);
              });
  }

  template <class Use>
  void substituted_logits(Weights w, const Batch& batch, const Batch& reference, std::span<const std::uint8_t> mask,
                          ChosenLayers layers, Use&& use) {
    mask_.upload(mask.data(), mask.size());
    reference_.upload(reference.ids.data(), reference.ids.size());
    each_tile(w, batch, Readout::last, false,
              [&](const network::Tile& tile, auto& activations, const TileSequences& here) {
                const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(here.first) * batch.length;
                network::Tile of_reference = tile;
                of_reference.tokens = reference_.template as<int>() + first;
                RecordingProbe<S, DeviceRows> recording(rows_, record_, w.n_layers);
                network::forward(grid_, activations, of_reference, w, network::TileStates<T>{}, recording);
                SubstitutingProbe<S, DeviceRows> substituting(rows_, record_, mask_.template as<std::uint8_t>() + first,
                                                              layers);
                run_forward(w, tile, activations, {}, substituting, use);
              });
  }

  template <class Visitor, class Use>
  void visited_logits(Weights w, const Batch& batch, Visitor& visitor, Use&& use) {
    each_tile(w, batch, Readout::last, false,
              [&](const network::Tile& tile, auto& activations, const TileSequences& here) {
                FunctionProbe<Visitor, DeviceRows> probe(rows_, visitor, here.where);
                run_forward(w, tile, activations, {}, probe, use);
              });
  }

  // gradients (an arena on the device) <- those of the loss, the rates' with respect to A; a loss of the user's own
  // runs on the host.
  template <class Loss>
  double loss_and_gradients(Weights w, T* gradients, const Batch& batch, Readout readout, Loss&& loss) {
    return sum_of_tiles(
        w, gradients, batch, readout, loss,
        [&](auto dw, auto& activations, const network::Tile& tile, const TileSequences&, auto& of_head) {
          network::NoProbe probe;
          return network::loss_and_gradients(grid_, dw, activations, tile, w, of_head, probe);
        });
  }
  DrawnTiles drawn_tiles(int n_layers, int sequences, int length) {
    DrawnTiles tiles{sequences, length, {}, DeviceTiles(queue_), {}};
    const std::vector<std::int32_t> no_tokens(static_cast<std::size_t>(sequences) * static_cast<std::size_t>(length));
    const Batch batch{no_tokens, sequences, length, {}};
    each_tile_range(n_layers, batch, true, [&](int begin, int count) {
      tiles.ranges.push_back(tiles.on_host.append(batch, Readout::last, begin, begin + count, begin));
    });
    tiles.on_device.upload(tiles.on_host);
    return tiles;
  }
  // Has memory there for their activations; returns where it lies, and scratch memory does.
  std::pair<void*, void*> reserve_for(const DrawnTiles& tiles, int n_layers) {
    reserve(n_layers, Batch{{}, tiles.sequences, tiles.length, {}}, Readout::last, true);
    return {workspace_.data(), grid_.scratch(0)};
  }
  // gradients <- those of the mean cross-entropy of the sequences' last tokens, losses (sequences) <- its shares, all
  // on the device: tokens (sequences, length), labels (sequences). Waits for nothing.
  void drawn_gradients(Weights w, T* gradients, const DrawnTiles& tiles, const int* tokens, const int* labels,
                       double* losses) {
    grid_.zero(gradients, network::Tables<A>::size(w.n_layers));
    const auto of_head = [&](auto dlogits, auto logits, int first) {
      cuda::cross_entropy_of(grid_, losses + first, dlogits, logits, labels + first, A::config.vocab_size,
                             1.0 / tiles.sequences);
      return 0.0;
    };
    for (const network::TileRange& range : tiles.ranges) {
      network::Tile tile = tiles.on_device.tile(range);
      tile.tokens = tokens + static_cast<std::ptrdiff_t>(range.first_sequence) * tiles.length;
      Activations activations =
          Sizes::activations_of(workspace_.data(), w.n_layers, tiles.on_host.sequences(range), range.readouts, true);
      network::NoProbe probe;
      network::loss_and_gradients(grid_, network::ModelGradients<A>{gradients, w.n_layers}, activations, tile, w,
                                  of_head, probe);
    }
  }
  cuda::Grid& grid() { return grid_; }

  template <class Visitor, class Loss>
  double visited_loss_and_gradients(Weights w, T* gradients, const Batch& batch, Readout readout, Visitor& visitor,
                                    Loss&& loss) {
    return sum_of_tiles(
        w, gradients, batch, readout, loss,
        [&](auto dw, auto& activations, const network::Tile& tile, const TileSequences& here, auto& of_head) {
          FunctionProbe<Visitor, DeviceRows, true> probe(rows_, visitor, here.where);
          return network::loss_and_gradients(grid_, dw, activations, tile, w, of_head, probe);
        });
  }
  // The same from a state, which is advanced. of_state, where given: the gradient with respect to where it ends, which
  // becomes the one with respect to where it began.
  template <class Loss>
  double passed_loss_and_gradients(Weights w, T* gradients, const Batch& batch, Readout readout, Loss&& loss,
                                   State<A>& state, State<A>* of_state) {
    reserve(w.n_layers, batch, readout, true);  // what is refused leaves the state
    if (began_) *began_ = state;
    else began_.emplace(state);
    state_.begin(state), state_began_.begin(*began_);
    if (of_state) gradient_of_state_.begin(*of_state);
    const double sum = sum_of_tiles(
        w, gradients, batch, readout, loss,
        [&](auto dw, auto& activations, network::Tile tile, const TileSequences& here, auto& of_head) {
          tile.positions = state_.positions() + here.first;
          const network::Passage<T> passage{state_began_.from(here.first),
                                            of_state ? gradient_of_state_.from(here.first) : network::TileStates<T>{}};
          return network::loss_and_gradients(grid_, dw, activations, tile, w, of_head, state_.from(here.first),
                                             passage);
        });
    state_.advance(state, batch);
    return sum;
  }

 private:
  using Activations = typename Sizes::Activations;
  using OfProducts = typename Activations::OfProducts;
  static constexpr int Vp = Sizes::Vp, logits_stride = Sizes::logits_stride;

  // A tile's sequences in the batch, and each row's index there, sequence * length + time.
  struct TileSequences {
    int first;
    std::span<const int> where;
  };

  // range(the first of a tile's sequences, how many), tile after tile.
  template <class Range>
  void each_tile_range(int n_layers, const Batch& batch, bool with_backward, Range&& range) {
    const int per_tile = Sizes::sequences_of_tile(firsts_, n_layers, batch, with_backward, tile_bytes_);
    for (int begin = 0; begin < batch.batch; begin += per_tile) range(begin, (std::min)(per_tile, batch.batch - begin));
  }
  // body(tile, activations, sequences), tile after tile.
  template <class Body>
  void each_tile(Weights w, const Batch& batch, Readout readout, bool with_backward, Body&& body) {
    int first_readout = 0;
    each_tile_range(w.n_layers, batch, with_backward, [&](int begin, int count) {
      packed_.clear();
      const network::TileRange range = packed_.append(batch, readout, begin, begin + count, first_readout);
      const Sequences on_host = packed_.sequences(range);
      network::check_tile_size<A>(on_host.rows());
      workspace_.reserve(Sizes::activations_of(nullptr, w.n_layers, on_host, range.readouts, with_backward).bytes());
      if (with_backward) grid_.scratch(Sizes::scratch_bytes(count, on_host.rows(), true));
      Activations activations =
          Sizes::activations_of(workspace_.data(), w.n_layers, on_host, range.readouts, with_backward);
      batch_rows(where_, batch, begin, begin + count);
      tiles_.upload(packed_);
      body(tiles_.tile(range), activations, TileSequences{begin, where_});
      first_readout += range.readouts;
    });
  }

  // Memory for the largest tile; throws Error where one is too large.
  void reserve(int n_layers, const Batch& batch, Readout readout, bool with_backward) {
    each_tile_range(n_layers, batch, with_backward, [&](int begin, int count) {
      firsts_.assign(1, 0);
      int readouts = 0;
      for (int s = begin; s < begin + count; ++s) {
        firsts_.push_back(firsts_.back() + batch.length_of(s));
        readouts += readouts_of(batch.length_of(s), readout);
      }
      network::check_tile_size<A>(firsts_.back());
      workspace_.reserve(
          Sizes::activations_of(nullptr, n_layers, {firsts_.data(), count}, readouts, with_backward).bytes());
      if (with_backward) {
        grid_.scratch(Sizes::scratch_bytes(count, firsts_.back(), true));
      } else {
        grid_.scratch(Sizes::forward_scratch_bytes(count, firsts_.back(), batch.length));
      }
    });
  }

  // use(number of the first row, logits on the device) for all rows that are read out; a state is read and advanced.
  template <class Use>
  void logits_on_device(Weights w, const Batch& batch, Readout readout, State<A>* state, Use&& use) {
    if (state) {
      reserve(w.n_layers, batch, readout, false);  // what is refused leaves the state
      state_.begin(*state);
    }
    const bool recorded = state && is_step(w.n_layers, batch);
    each_tile(w, batch, readout, false, [&](network::Tile tile, auto& activations, const TileSequences& here) {
      network::TileStates<T> states;
      if (state) states = state_.from(here.first), tile.positions = state_.positions() + here.first;
      if (recorded && tile.readouts <= activations.rows_of_head()) {
        use(tile.first_readout, steps_.run(grid_, w, tile, activations, states));
      } else {
        network::NoProbe probe;
        network::forward(grid_, activations, tile, w, states, probe);
        network::read_out(grid_, activations, tile, w,
                          [&](int first, auto& head) { use(tile.first_readout + first, in(head.logits)); });
      }
    });
    if (state) state_.advance(*state, batch);
  }

  template <class Probe, class Use>
  void run_forward(Weights w, const network::Tile& tile, Activations& activations, network::TileStates<T> states,
                   Probe& probe, Use& use) {
    network::forward(grid_, activations, tile, w, states, probe);
    network::read_out(grid_, activations, tile, w, [&](int first, auto& head) {
      download(logits_, head.logits);
      use(tile.first_readout + first, Rows<const T, Vp>{logits_.data(), head.logits.rows});
    });
  }

  // Whether a batch is a decoding step of so few tiles that all can be recorded.
  bool is_step(int n_layers, const Batch& batch) {
    return batch.length == 1 && batch.batch <= cuda::most_step_rows<S> &&
           batch.batch <= static_cast<int>(RecordedSteps<A>::most) *
                              Sizes::sequences_of_tile(firsts_, n_layers, batch, false, tile_bytes_);
  }

  // run(gradients, activations, tile, sequences, loss) returns a tile's share of the loss.
  template <class Loss, class Run>
  double sum_of_tiles(Weights w, T* gradients, const Batch& batch, Readout readout, Loss& loss, Run&& run) {
    const auto of_head = head_loss(batch, readout, loss);
    grid_.zero(gradients, network::Tables<A>::size(w.n_layers));
    double sum = 0;
    each_tile(w, batch, readout, true, [&](const network::Tile& tile, auto& activations, const TileSequences& here) {
      sum += run(network::ModelGradients<A>{gradients, w.n_layers}, activations, tile, here, of_head);
    });
    return sum;
  }

  // loss(dlogits, logits, number of the first row) over rows on the device.
  auto head_loss(const Batch& batch, Readout readout, const CrossEntropy& loss) {
    std::size_t count = 0;
    for (int s = 0; s < batch.batch; ++s) count += static_cast<std::size_t>(readouts_of(batch.length_of(s), readout));
    labels_.upload(loss.labels, count);
    CrossEntropy on_device = loss;
    on_device.labels = labels_.template as<int>();
    return [this, on_device](auto dlogits, auto logits, int first) { return on_device(grid_, dlogits, logits, first); };
  }
  template <class Loss>
  requires(!std::is_same_v<std::remove_cv_t<Loss>, CrossEntropy>)
  auto head_loss(const Batch&, Readout, Loss& loss) {
    return [this, &loss](auto dlogits, auto logits, int first) {
      download(logits_, logits);
      dlogits_.assign(logits_.size(), T(0));
      Buffer scratch;
      eigen::Core on_host(scratch);
      const double share = loss(on_host, Rows<T, Vp>{dlogits_.data(), logits.rows},
                                Rows<const T, Vp>{logits_.data(), logits.rows}, first);
      const auto upload = [&](const std::vector<OfProducts>& values) {
        cuda::check(cudaMemcpyAsync(dlogits.data, values.data(), values.size() * sizeof(OfProducts),
                                    cudaMemcpyHostToDevice, queue_->stream()),
                    "cudaMemcpyAsync to the device");
      };
      if constexpr (std::is_same_v<OfProducts, T>) {
        upload(dlogits_);
      } else {
        stored_dlogits_.assign(dlogits_.begin(), dlogits_.end());
        upload(stored_dlogits_);
      }
      return share;
    };
  }

  template <class Scalar>
  void download(std::vector<T>& to, Rows<Scalar, Vp> from) const {
    to.resize(static_cast<std::size_t>(from.rows) * logits_stride);
    cuda::check(cudaMemcpyAsync(to.data(), from.data, to.size() * sizeof(T), cudaMemcpyDeviceToHost, queue_->stream()),
                "cudaMemcpyAsync from the device");
    queue_->wait();
  }

  cuda::QueuePointer queue_;
  std::size_t tile_bytes_;
  cuda::Grid grid_{queue_};
  DeviceRows rows_{*queue_};
  cuda::DeviceBuffer workspace_{queue_}, labels_{queue_}, mask_{queue_}, reference_{queue_}, record_{queue_},
      choice_positions_{queue_}, chosen_{queue_};
  CudaState<A> state_{queue_}, state_began_{queue_}, gradient_of_state_{queue_};
  std::optional<State<A>> began_;  // where the sequences of a call did whose state is advanced
  PackedTiles packed_;
  DeviceTiles tiles_{queue_};
  std::vector<int> firsts_, where_, positions_;
  std::vector<T> logits_, dlogits_;         // the head's rows on the host
  std::vector<OfProducts> stored_dlogits_;  // where they are stored otherwise
  RecordedSteps<A> steps_;
};

}  // namespace mamba
