// Runs the network on the CPU: tiles over the threads of a pool, each worker with its own activations, each gradient
// buffer with its own tiles.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <mamba/core/denormals.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/policies.hpp>
#include <mamba/core/threads.hpp>
#include <mamba/eigen/backend.hpp>
#include <mamba/eigen/tuning.hpp>
#include <mamba/eigen/weights.hpp>
#include <mamba/engine/batch.hpp>
#include <mamba/engine/cpu_arenas.hpp>
#include <mamba/engine/engine.hpp>
#include <mamba/engine/packing.hpp>
#include <mamba/engine/partition.hpp>
#include <mamba/engine/probes.hpp>
#include <mamba/engine/state.hpp>
#include <mamba/network/network.hpp>

namespace mamba {

template <class A>
class Engine<A, Cpu> : public CpuArenas<A> {
  static_assert(network::check_backend<A, eigen::Core>());
  using Base = CpuArenas<A>;
  using Tuning = eigen::Tuning;
  using Recurrence = typename network::MixerOf<A>::Recurrence;
  using Base::derived_, Base::gradients_, Base::n_layers_, Base::pool_, Base::size_;
  using Base::prepare, Base::weights;

 public:
  using Base::gradients, Base::placed;
  using typename Base::T;
  template <class Task>
  using Training = NoTraining;

  explicit Engine(const ModelOptions& options) : Base(options) {
    require(options.scope == Scope::by_sizes, "a scope is a GPU's; this model runs on the CPU");
    workers_.resize(static_cast<std::size_t>(pool_->workers()));
  }

  // The bytes of everything this engine holds.
  std::size_t memory_bytes() const {
    std::size_t sum = Base::memory_bytes();
    for (const Worker& worker : workers_)
      sum += worker.activations.bytes() + worker.scratch.bytes() + worker.packed.bytes();
    for (const Buffer& buffer : buffers_) sum += buffer.bytes();
    return sum + (began_ ? began_->bytes() : 0);
  }

  // The same once it has had such a batch's gradients: activations and gradients of its tiles are nearly all of it.
  std::size_t bytes_with_gradients(const Batch& batch, Readout) const {
    const Partition partition = partition_of(batch);
    std::vector<int> firsts;
    const Sequences tile = equal_sequences(firsts, partition.per_tile, batch.length);
    const std::size_t activations =
        network::Activations<A>(nullptr, n_layers_, tile.rows(), eigen::kept_states(Recurrence{}, tile), true).bytes();
    const auto workers = static_cast<std::size_t>(partition.tiles == 1 ? 1 : pool_->workers());
    return Base::bytes_of_arenas() + workers * (activations + product_scratch_bytes(tile.rows())) +
           static_cast<std::size_t>(partition.buffers) * size_ * sizeof(T);
  }

  // use(number of the first row, logits: Rows<const T, Vp>) for all readout rows of the batch, in any order, from
  // several threads at once. state, where given: where the sequences begin and, afterwards, end.
  template <class Use>
  void logits(const Batch& batch, Readout readout, Use&& use, State<A>* state = nullptr) {
    network::TileStates<T> first;
    if (state) {
      auto [history, states] = state->memory();
      first = state->tile_states(history.template as<T>(), states.template as<T>());
    }
    each_tile(batch, readout, [&](Worker& worker, ThreadPool* team, network::Tile tile, int first_sequence) {
      network::TileStates<T> states;
      if (state)
        states = State<A>::from(first, first_sequence), tile.positions = state->positions().data() + first_sequence;
      network::NoProbe probe;
      run_forward(worker, team, tile, states, probe, use);
    });
    if (state)
      for (int s = 0; s < batch.batch; ++s) state->advance(s, batch.length_of(s));
  }

  void choose(const Batch& batch, const Sampling& sampling, State<A>& state, std::span<std::int32_t> chosen) {
    choose_on_host(*this, batch, sampling, state, chosen);
  }

  // The same with S cut at the rows whose mask (batch, length) is 1.
  template <Reading reading, class Use>
  void blocked_logits(const Batch& batch, std::span<const std::uint8_t> mask, ChosenLayers layers, Use&& use) {
    const std::vector<std::uint8_t> kept = rows_up_to_masked(mask, batch.length);
    each_tile(batch, Readout::last,
              [&](Worker& worker, ThreadPool* team, const network::Tile& tile, int first_sequence) {
                const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(first_sequence) * batch.length;
                BlockingProbe<reading, HostRows> probe({}, mask.data() + first, kept.data() + first, layers);
                run_forward(worker, team, tile, {}, probe, use);
              });
  }

  // The same with the reference's rows at Point::conv_output where the mask is 1.
  template <class Use>
  void substituted_logits(const Batch& batch, const Batch& reference, std::span<const std::uint8_t> mask,
                          ChosenLayers layers, Use&& use) {
    each_tile(
        batch, Readout::last, [&](Worker& worker, ThreadPool* team, const network::Tile& tile, int first_sequence) {
          const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(first_sequence) * batch.length;
          std::vector<int> reference_tokens(reference.ids.begin() + first, reference.ids.begin() + first + tile.rows());
          network::Tile of_reference = tile;
          of_reference.tokens = reference_tokens.data();
          std::vector<typename A::Storage> record;
          RecordingProbe<typename A::Storage, HostRows> recording({}, record, n_layers_);
          run_forward(worker, team, of_reference, {}, recording, [](int, auto) {});
          SubstitutingProbe<typename A::Storage, HostRows> substituting({}, record, mask.data() + first, layers);
          run_forward(worker, team, tile, {}, substituting, use);
        });
  }

  // The same with a visitor at every point (FunctionProbe), tile after tile on the calling thread.
  template <class Visitor, class Use>
  void visited_logits(const Batch& batch, Visitor& visitor, Use&& use) {
    prepare();
    const Partition partition = partition_of(batch);
    number_readouts(batch, Readout::last, partition);
    reserve_workers(batch, partition, false);
    std::vector<int> where;
    for (int t = 0; t < partition.tiles; ++t) {
      const network::Tile tile = pack(workers_[0], batch, Readout::last, partition, t);
      batch_rows(where, batch, partition.first_sequence(t), partition.first_sequence(t + 1));
      FunctionProbe<Visitor, HostRows> probe({}, visitor, where);
      run_forward(workers_[0], nullptr, tile, {}, probe, use);
    }
  }

  // gradients <- those of the sum that loss(core, dlogits, logits, number of the first row) returns the shares of.
  template <class Loss>
  double loss_and_gradients(const Batch& batch, Readout readout, Loss&& loss) {
    const Partition partition = begin_gradients(batch, readout);
    pool_->run(partition.buffers, [&](int buffer, int worker) {
      fill_buffer(batch, readout, partition, buffer, workers_[static_cast<std::size_t>(worker)], loss,
                  [](auto& core, auto dw, auto& activations, const network::Tile& tile, int, auto w, auto& of_head) {
                    network::NoProbe probe;
                    return network::loss_and_gradients(core, dw, activations, tile, w, of_head, probe);
                  });
    });
    return finish_gradients(partition);
  }

  // The same from a state, which is advanced. of_state, where given: the gradient with respect to where it ends, which
  // becomes the one with respect to where it began.
  template <class Loss>
  double passed_loss_and_gradients(const Batch& batch, Readout readout, Loss&& loss, State<A>& state,
                                   State<A>* of_state) {
    const Partition partition = begin_gradients(batch, readout);
    if (began_) *began_ = state;
    else began_.emplace(state);
    const auto all_of = [](State<A>& of) {
      auto [history, states] = of.memory();
      return of.tile_states(history.template as<T>(), states.template as<T>());
    };
    const network::TileStates<T> states = all_of(state), began = all_of(*began_);
    const network::TileStates<T> of_end = of_state ? all_of(*of_state) : network::TileStates<T>{};
    pool_->run(partition.buffers, [&](int buffer, int worker) {
      fill_buffer(batch, readout, partition, buffer, workers_[static_cast<std::size_t>(worker)], loss,
                  [&](auto& core, auto dw, auto& activations, network::Tile tile, int first, auto w, auto& of_head) {
                    tile.positions = state.positions().data() + first;
                    const network::Passage<T> passage{State<A>::from(began, first),
                                                      of_state ? State<A>::from(of_end, first) : of_end};
                    return network::loss_and_gradients(core, dw, activations, tile, w, of_head,
                                                       State<A>::from(states, first), passage);
                  });
    });
    for (int s = 0; s < batch.batch; ++s) state.advance(s, batch.length_of(s));
    return finish_gradients(partition);
  }

  // The same with a visitor of the gradients at every point, on the calling thread.
  template <class Visitor, class Loss>
  double visited_loss_and_gradients(const Batch& batch, Readout readout, Visitor& visitor, Loss&& loss) {
    const Partition partition = begin_gradients(batch, readout);
    std::vector<int> where;
    for (int buffer = 0; buffer < partition.buffers; ++buffer)
      fill_buffer(
          batch, readout, partition, buffer, workers_[0], loss,
          [&](auto& core, auto dw, auto& activations, const network::Tile& tile, int first, auto w, auto& of_head) {
            batch_rows(where, batch, first, first + tile.sequences.count);
            FunctionProbe<Visitor, HostRows, true> probe({}, visitor, where);
            return network::loss_and_gradients(core, dw, activations, tile, w, of_head, probe);
          });
    return finish_gradients(partition);
  }

 private:
  using S = typename A::WeightStorage;

  struct alignas(2 * cache_line) Worker {
    Buffer scratch, activations;
    PackedTiles packed;  // the tile at hand
  };

  // body(worker, team, tile, number of its first sequence), shared out over the threads; a single tile has them all as
  // its team.
  template <class Body>
  void each_tile(const Batch& batch, Readout readout, Body&& body) {
    prepare();
    const Partition partition = partition_of(batch);
    number_readouts(batch, readout, partition);
    reserve_workers(batch, partition, false);
    const auto on_worker = [&](int tile, int number, ThreadPool* team) {
      Worker& worker = workers_[static_cast<std::size_t>(number)];
      body(worker, team, pack(worker, batch, readout, partition, tile), partition.first_sequence(tile));
    };
    if (partition.tiles == 1) on_worker(0, 0, pool_.get());
    else pool_->run(partition.tiles, [&](int tile, int number) { on_worker(tile, number, nullptr); });
  }

  Partition partition_of(const Batch& batch) const {
    return Partition::of(
        batch, size_ * sizeof(T),
        {Tuning::tile_tokens, Tuning::tiles_per_buffer, Tuning::most_buffers, Tuning::most_buffer_bytes});
  }

  template <class Probe, class Use>
  void run_forward(Worker& worker, ThreadPool* team, const network::Tile& tile, network::TileStates<T> states,
                   Probe& probe, Use&& use) {
    const FlushDenormals flush;
    eigen::Core core(worker.scratch, team);
    auto activations = make_activations(worker, tile, false);
    network::forward(core, activations, tile, weights(), states, probe);
    network::read_out(core, activations, tile, weights(),
                      [&](int first, auto& head) { use(tile.first_readout + first, in(head.logits)); });
  }

  Partition begin_gradients(const Batch& batch, Readout readout) {
    check_has_gradients<A>();
    prepare();
    const Partition partition = partition_of(batch);
    number_readouts(batch, readout, partition);
    reserve_workers(batch, partition, true);
    reserve_buffers(partition.buffers);
    shares_.assign(static_cast<std::size_t>(partition.tiles), 0.0);
    return partition;
  }

  // One buffer's tiles in order; run(core, gradients, activations, tile, number of its first sequence, weights, loss)
  // returns a tile's share of the loss.
  template <class Loss, class Run>
  void fill_buffer(const Batch& batch, Readout readout, const Partition& partition, int buffer, Worker& worker,
                   Loss& loss, Run&& run) {
    const FlushDenormals flush;
    eigen::Core core(worker.scratch);
    T* const sums = buffers_[static_cast<std::size_t>(buffer)].template as<T>();
    std::fill_n(sums, size_, T(0));
    for (int t = partition.first_tile(buffer); t < partition.first_tile(buffer + 1); ++t) {
      const network::Tile tile = pack(worker, batch, readout, partition, t);
      auto activations = make_activations(worker, tile, true);
      auto of_head = [&](auto dlogits, auto logits, int first) { return loss(core, dlogits, logits, first); };
      shares_[static_cast<std::size_t>(t)] = run(core, network::ModelGradients<A>{sums, n_layers_}, activations, tile,
                                                 partition.first_sequence(t), weights(), of_head);
    }
  }

  double finish_gradients(const Partition& partition) {
    sum_gradients(partition.buffers);
    double sum = 0;
    for (const double share : shares_) sum += share;
    return sum;
  }

  // Every worker's memory for the largest tile of a call: who first meets a tile later must not allocate in a step.
  void reserve_workers(const Batch& batch, const Partition& partition, bool with_backward) {
    const auto tokens = static_cast<std::size_t>(partition.per_tile) * static_cast<std::size_t>(batch.length);
    const Sequences largest = equal_sequences(firsts_, partition.per_tile, batch.length);
    // Any worker may take any tile, however few there are; a single one stays with the first.
    for (int w = 0; w < (partition.tiles == 1 ? 1 : pool_->workers()); ++w) {
      Worker& worker = workers_[static_cast<std::size_t>(w)];
      worker.packed.reserve(static_cast<std::size_t>(partition.per_tile), tokens);
      make_activations(worker, {nullptr, largest}, with_backward);
      eigen::Core core(worker.scratch, partition.tiles == 1 && !with_backward ? pool_.get() : nullptr);
      reserve(core, Recurrence{}, with_backward);
      worker.scratch.reserve(product_scratch_bytes(largest.rows()));
    }
  }

  // What products with weights take for so many rows.
  static std::size_t product_scratch_bytes(int rows) {
    constexpr int widest = (std::max)(A::config.d_model, A::config.d_inner());
    return eigen::reads_rows<S, widest> ? eigen::product_scratch_bytes(rows, widest) : 0;
  }

  // first_readouts_[tile]: how many readout rows lie before a tile's.
  void number_readouts(const Batch& batch, Readout readout, const Partition& partition) {
    first_readouts_.resize(static_cast<std::size_t>(partition.tiles));
    int count = 0;
    for (int tile = 0; tile < partition.tiles; ++tile) {
      first_readouts_[static_cast<std::size_t>(tile)] = count;
      for (int s = partition.first_sequence(tile); s < partition.first_sequence(tile + 1); ++s)
        count += readouts_of(batch.length_of(s), readout);
    }
  }

  network::Tile pack(Worker& worker, const Batch& batch, Readout readout, const Partition& partition, int index) {
    worker.packed.clear();
    return worker.packed.tile(worker.packed.append(batch, readout, partition.first_sequence(index),
                                                   partition.first_sequence(index + 1),
                                                   first_readouts_[static_cast<std::size_t>(index)]));
  }

  network::Activations<A> make_activations(Worker& worker, const network::Tile& tile, bool with_backward) {
    const int boundaries = with_backward ? eigen::kept_states(Recurrence{}, tile.sequences) : 0;
    worker.activations.reserve(
        network::Activations<A>(nullptr, n_layers_, tile.rows(), boundaries, with_backward).bytes());
    return {worker.activations.data(), n_layers_, tile.rows(), boundaries, with_backward};
  }

  void reserve_buffers(int count) {
    while (buffers_.size() < static_cast<std::size_t>(count)) {
      buffers_.emplace_back(size_ * sizeof(T));
      buffer_pointers_.push_back(buffers_.back().template as<T>());
    }
  }

  void sum_gradients(int buffers) {
    constexpr std::size_t stretch = Tuning::sum_piece;
    pool_->run(static_cast<int>((size_ + stretch - 1) / stretch), [&](int task, int) {
      const std::size_t first = static_cast<std::size_t>(task) * stretch;
      eigen::sum_buffers(gradients_.template as<T>(), buffer_pointers_.data(), buffers, first,
                         (std::min)(size_, first + stretch));
    });
    pool_->run(static_cast<int>(placed().size()), [&](int i, int) {
      const PlacedParameter& p = placed()[static_cast<std::size_t>(i)];
      eigen::derive_backward(gradients_.template as<T>() + p.offset, derived_.template as<T>() + p.offset, p.parameter);
    });
  }

  std::optional<State<A>> began_;  // where the sequences of a call did whose state is advanced
  std::vector<Buffer> buffers_;
  std::vector<const T*> buffer_pointers_;
  std::vector<Worker> workers_;
  std::vector<int> first_readouts_, firsts_;
  std::vector<double> shares_;
};

}  // namespace mamba
