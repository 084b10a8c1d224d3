// Training at block scope without the host: batches are drawn, run, clipped and applied there, a step being one graph
// of kernels. The host plans steps, launches them and asks at the end how they went.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include <mamba/cuda/kernels/training.hpp>
#include <mamba/cuda/runtime/graph.hpp>
#include <mamba/cuda/runtime/launch.hpp>
#include <mamba/engine/cuda_arenas.hpp>
#include <mamba/engine/cuda_drawn.hpp>
#include <mamba/engine/cuda_packed.hpp>
#include <mamba/engine/cuda_tiles.hpp>
#include <mamba/engine/packing.hpp>

namespace mamba {

// Task: as Trainer's, and its train_sample() runs on the device.
template <class A, class Task>
class CudaBlockTraining {
  using T = typename A::Scalar;
  using Arena = typename CudaArenas<A>::Arena;
  using Tiles = BlockTiles<A>;

 public:
  static constexpr long most_steps() { return 1024; }  // of one call of run()

  // Reserves all memory. Holds a reference to the model's arenas. Throws Error when the task's sequences are not the
  // model's, or the device's memory does not suffice.
  CudaBlockTraining(CudaArenas<A>& arenas, const Task& task, int batch, std::uint64_t seed, double clip)
      : arenas_(arenas), queue_(arenas.queue()), task_(task), seed_(seed), clip_(clip), batch_(batch) {
    check_drawn_task<A>(task);
    const int length = task.length, n_layers = arenas.n_layers();
    const cuda::OnDevice on(queue_->device());
    // A batch of the task's as any other, but for its tokens: the device draws them.
    const std::vector<std::int32_t> no_tokens(static_cast<std::size_t>(batch) * static_cast<std::size_t>(length));
    const Batch equal{no_tokens, batch, length, {}};
    const Partition partition = Tiles::partition(equal, n_layers);
    network::check_tile_size<A>(partition.per_tile * length);
    tiles_ = partition.tiles, per_tile_ = partition.per_tile, blocks_ = partition.buffers;
    PackedTiles packed;
    for (int i = 0; i < tiles_; ++i)
      packed.append(equal, Readout::last, partition.first_sequence(i), partition.first_sequence(i + 1), 0);
    lists_.upload(packed);

    std::vector<int> firsts;
    boundary_states_ = Tiles::kept_states(equal_sequences(firsts, per_tile_, length));
    activation_bytes_ = network::Activations<A>(nullptr, n_layers, per_tile_ * length, boundary_states_, true).bytes();
    workspace_bytes_ = Tiles::workspace_bytes(activation_bytes_, true);
    workspaces_.reserve(workspace_bytes_ * static_cast<std::size_t>(blocks_));
    buffers_.reserve(static_cast<std::size_t>(blocks_) * arenas.size() * sizeof(T));
    tokens_.reserve(2 * static_cast<std::size_t>(batch) * length * sizeof(int));
    labels_.reserve(2 * static_cast<std::size_t>(batch) * sizeof(int));
    ranges_.reserve(2 * static_cast<std::size_t>(tiles_) * sizeof(network::TileRange));
    shares_.reserve(static_cast<std::size_t>(tiles_) * sizeof(double));
    plan_.reserve(most_steps() * sizeof(math::PlannedStep));
    const CrossEntropy losses[] = {{labels_.template as<int>(), A::config.vocab_size, 1.0},
                                   {labels_.template as<int>() + batch, A::config.vocab_size, 1.0}};
    loss_.upload(losses, 2);
    const cuda::TrainingState state;
    state_.upload(&state, 1);
    queue_->wait();  // what was handed over goes out of scope
  }

  std::size_t memory_bytes() const {
    std::size_t sum = lists_.bytes();
    for (const auto* buffer :
         {&workspaces_, &buffers_, &tokens_, &labels_, &ranges_, &shares_, &plan_, &loss_, &state_})
      sum += buffer->bytes();
    return sum;
  }

  // Up to most_steps steps, the update being AdamW's with the arenas mean and square. The losses are added to loss_sum
  // one by one, so that it is the same wherever a run is cut. Returns the state at their end: how many are done, and
  // whether the next one stopped the training.
  cuda::TrainingState run(std::span<const math::PlannedStep> plan, Arena& mean, Arena& square, double loss_sum) {
    const cuda::OnDevice on(queue_->device());
    plan_.upload(plan.data(), plan.size());
    cuda::TrainingState state;
    state.planned = static_cast<long long>(plan.size());
    state.loss_sum = loss_sum;
    state_.upload(&state, 1);
    arenas_.weights();  // renews the rates if the parameters have changed
    T *const of_mean = mean.template on_device<T>(), *const of_square = square.template on_device<T>();
    T *const parameters = arenas_.parameters_on_device(), *const gradients = arenas_.gradients_on_device();
    // Made anew where the optimiser's means have moved: it may have been assigned.
    if (const auto now = std::tuple(parameters, gradients, of_mean, of_square); !graph_ || of_graph_ != now) {
      of_graph_ = now;
      add_step(graph_.emplace(), parameters, gradients, of_mean, of_square);
    }
    launch_draw(queue_->stream(), 0);
    for (std::size_t i = 0; i < plan.size(); ++i) graph_->launch(*queue_);
    state_.download(&state, 1);
    return state;
  }

 private:
  cuda::DrawnBatch drawn() const {
    return {.tokens = tokens_.template as<int>(),
            .labels = labels_.template as<int>(),
            .loss = loss_.template as<CrossEntropy>(),
            .ranges = ranges_.template as<network::TileRange>(),
            .batch = batch_,
            .tiles = tiles_,
            .per_tile = per_tile_,
            .boundary_states = boundary_states_};
  }
  cuda::TrainingState* state() const { return state_.template as<cuda::TrainingState>(); }

  static constexpr int draw_threads = cuda::TileTuning::draw_threads;
  int draw_blocks() const { return (batch_ + draw_threads - 1) / draw_threads; }
  void launch_draw(cudaStream_t stream, int ahead) {
    cuda::launch_kernel("draw_batch", cuda::draw_batch<Task>, {draw_blocks(), draw_threads}, stream, drawn(), task_,
                        seed_, plan_.template as<math::PlannedStep>(), state(), ahead);
  }

  // A step: tiles, their gradients' sum, the end; beside the tiles the next batch.
  void add_step(cuda::Graph& graph, T* parameters, T* gradients, T* mean, T* square) {
    constexpr int threads = cuda::Block::threads;
    const auto elements = arenas_.elements();
    const int sum_blocks = cuda::BufferSum::blocks(elements, blocks_);
    T *const derived = arenas_.derived_on_device(), *const buffers = buffers_.template as<T>();
    double *const squares = arenas_.squares_on_device(), *const shares = shares_.template as<double>();
    // Every tile begins at the lists' first, for all tiles are cut alike.
    const cuda::TileArguments<A> tiles{.weights = {{parameters, derived}, arenas_.n_layers()},
                                       .ranges = drawn().ranges,
                                       .firsts = lists_.firsts(),
                                       .tokens = drawn().tokens,
                                       .times = lists_.times(),
                                       .readouts = lists_.readouts(),
                                       .tiles = tiles_,
                                       .workspaces = workspaces_.template as<std::byte>(),
                                       .workspace_bytes = workspace_bytes_,
                                       .activation_bytes = activation_bytes_,
                                       .batch_tokens = batch_ * task_.length,
                                       .products = arenas_.products()};
    const auto kernel = cuda::train_tiles<A, CrossEntropy, cuda::NoVisits>;
    Tiles::allow_shared_memory(kernel);
    const auto run = graph.add({}, kernel, {blocks_, threads, Tiles::shared_bytes}, tiles, buffers, arenas_.size(),
                               shares, drawn().loss, state(), cuda::NoVisits{});
    const auto draw = graph.add({}, cuda::draw_batch<Task>, {draw_blocks(), draw_threads}, drawn(), task_, seed_,
                                plan_.template as<math::PlannedStep>(), state(), 1);
    const auto sum = graph.add({run}, cuda::sum_buffers<T>, {sum_blocks, threads}, gradients, buffers, blocks_, derived,
                               squares, elements, state());
    graph.add({sum, draw}, cuda::finish_step<T>, {elements.blocks(), threads}, parameters, derived, mean, square,
              gradients, squares, sum_blocks, shares, tiles_, clip_, elements, state());
  }

  CudaArenas<A>& arenas_;
  cuda::QueuePointer queue_;
  Task task_;
  std::uint64_t seed_;
  double clip_;
  int batch_, tiles_ = 0, per_tile_ = 0, blocks_ = 0, boundary_states_ = 0;
  std::size_t activation_bytes_ = 0, workspace_bytes_ = 0;
  DeviceTiles lists_{queue_};
  cuda::DeviceBuffer workspaces_{queue_}, buffers_{queue_}, tokens_{queue_}, labels_{queue_}, ranges_{queue_},
      shares_{queue_}, plan_{queue_}, loss_{queue_}, state_{queue_};
  std::optional<cuda::Graph> graph_;
  std::tuple<T*, T*, T*, T*> of_graph_{};  // parameters, gradients, running means
};

}  // namespace mamba
