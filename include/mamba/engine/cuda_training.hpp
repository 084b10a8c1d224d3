// Training on the GPU without the host: batches are drawn, run, clipped and applied there, a step being one graph of kernels.
// The host plans steps, launches them and asks at the end how they went.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include <mamba/cuda/kernels/training.hpp>
#include <mamba/engine/cuda_block.hpp>

namespace mamba {

// Task: as Trainer's, and its train_sample() runs on the device.
template <class A>
requires(cuda::fits_block<A>) template <class Task>
class Engine<A, Cuda>::Training {
 public:
  using PlannedStep = cuda::PlannedStep;
  static constexpr std::size_t most_steps = 1024;  // of one call of run()

  // Reserves all memory. Holds a reference to the engine. Throws Error when the task's sequences are not the model's, or the
  // device's memory does not suffice.
  Training(Engine& engine, const Task& task, int batch, std::uint64_t seed, double clip)
      : engine_(engine), queue_(engine.queue_), task_(task), seed_(seed), clip_(clip), batch_(batch) {
    const int length = task.length;
    constexpr int longest = network::longest_sequence<A>();
    require(Task::vocab_size <= A::config.vocab_size, "the task's ", Task::vocab_size, " tokens are more than the model's ", A::config.vocab_size);
    require(longest == 0 || length <= longest, "the task's sequences of ", length, " tokens are longer than the model's max_seq_len ", longest);
    const cuda::OnDevice on(engine.device_);
    const Partition partition = partition_of({{}, batch, length, {}}, engine.size_ * sizeof(T));
    network::check_tile_size<A>(partition.per_tile * length);
    tiles_ = partition.tiles, per_tile_ = partition.per_tile, blocks_ = partition.buffers;

    // What every tile shares: where its sequences begin, which rows are read out, the rows' times.
    std::vector<int> indices;
    for (int s = 0; s <= per_tile_; ++s) indices.push_back(s * length);
    cuda::Requirements requirements;
    network::MixerOf<A>::reserve(requirements, true);
    boundary_states_ = network::MixerOf<A>::kept_states(requirements, {indices.data(), per_tile_});
    for (int s = 0; s < per_tile_; ++s) indices.push_back(s * length + length - 1);
    for (int t = 0; t < batch * length; ++t) indices.push_back(t % length);
    indices_.upload(indices.data(), indices.size());

    activation_bytes_ = network::Activations<A>(nullptr, engine.n_layers_, per_tile_ * length, boundary_states_, true).bytes();
    workspace_bytes_ = (activation_bytes_ + requirements.global_bytes + 255) / 256 * 256;
    workspaces_.reserve(workspace_bytes_ * static_cast<std::size_t>(blocks_));
    buffers_.reserve(static_cast<std::size_t>(blocks_) * engine.size_ * sizeof(T));
    tokens_.reserve(2 * static_cast<std::size_t>(batch) * length * sizeof(int));
    labels_.reserve(2 * static_cast<std::size_t>(batch) * sizeof(int));
    places_.reserve(2 * static_cast<std::size_t>(tiles_) * sizeof(cuda::TilePlace));
    shares_.reserve(static_cast<std::size_t>(tiles_) * sizeof(double));
    plan_.reserve(most_steps * sizeof(PlannedStep));
    const CrossEntropy losses[] = {{labels_.template as<int>(), A::config.vocab_size, 1.0}, {labels_.template as<int>() + batch, A::config.vocab_size, 1.0}};
    loss_.upload(losses, 2);
    const cuda::TrainingState state;
    state_.upload(&state, 1);
    queue_->wait();  // what was handed over goes out of scope
  }

  std::size_t memory_bytes() const {
    std::size_t sum = 0;
    for (const auto* buffer : {&workspaces_, &buffers_, &indices_, &tokens_, &labels_, &places_, &shares_, &plan_, &loss_, &state_}) sum += buffer->bytes();
    return sum;
  }

  // Up to most_steps steps, the update being AdamW's with the arenas mean and square. The losses are added to loss_sum one by
  // one, so that it is the same wherever a run is cut. Returns the state at their end: how many are done, and whether the next
  // one stopped the training.
  cuda::TrainingState run(std::span<const PlannedStep> plan, Arena& mean, Arena& square, double loss_sum) {
    const cuda::OnDevice on(engine_.device_);
    plan_.upload(plan.data(), plan.size());
    cuda::TrainingState state;
    state.planned = static_cast<long long>(plan.size());
    state.loss_sum = loss_sum;
    state_.upload(&state, 1);
    engine_.weights();  // renews the rates if the parameters have changed
    T *const of_mean = mean.template on_device<T>(), *const of_square = square.template on_device<T>();
    T *const parameters = engine_.parameters_->template on_device<T>(), *const gradients = engine_.gradients_->template on_device<T>();
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
    return {tokens_.template as<int>(),
            labels_.template as<int>(),
            loss_.template as<CrossEntropy>(),
            places_.template as<cuda::TilePlace>(),
            batch_,
            tiles_,
            per_tile_,
            boundary_states_};
  }
  cuda::TrainingState* state() const { return state_.template as<cuda::TrainingState>(); }

  // A thread a sequence; on few multiprocessors, for it runs beside train_tiles, whose blocks want one each.
  static constexpr unsigned draw_threads = 1024;
  unsigned draw_blocks() const { return (static_cast<unsigned>(batch_) + draw_threads - 1) / draw_threads; }
  void launch_draw(cudaStream_t stream, int ahead) {
    cuda::draw_batch<<<draw_blocks(), draw_threads, 0, stream>>>(drawn(), task_, seed_, plan_.template as<PlannedStep>(), state(), ahead);
    launched("draw_batch");
  }

  // A step: tiles, their gradients' sum, the end; beside the tiles the next batch.
  void add_step(cuda::Graph& graph, T* parameters, T* gradients, T* mean, T* square) {
    constexpr unsigned threads = cuda::Block::threads;
    const auto place = engine_.place();
    const auto sum_blocks = static_cast<unsigned>(cuda::BufferSum::blocks(place, blocks_));
    T *const derived = engine_.derived_->template on_device<T>(), *const buffers = buffers_.template as<T>();
    double *const squares = engine_.squares_.template as<double>(), *const shares = shares_.template as<double>();
    const int* const indices = indices_.template as<int>();
    const cuda::TileArguments<A> tiles{{parameters, derived, engine_.n_layers_},
                                       drawn().places,
                                       indices,
                                       drawn().tokens,
                                       indices + 2 * per_tile_ + 1,
                                       indices + per_tile_ + 1,
                                       tiles_,
                                       workspaces_.template as<std::byte>(),
                                       workspace_bytes_,
                                       activation_bytes_,
                                       batch_ * task_.length};
    allow_shared_memory(cuda::train_tiles<A, CrossEntropy>);
    const auto run = graph.add({}, cuda::train_tiles<A, CrossEntropy>, static_cast<unsigned>(blocks_), threads, shared_bytes, tiles, buffers, engine_.size_,
                               shares, drawn().loss, state());
    const auto draw =
        graph.add({}, cuda::draw_batch<Task>, draw_blocks(), draw_threads, 0, drawn(), task_, seed_, plan_.template as<PlannedStep>(), state(), 1);
    const auto sum = graph.add({run}, cuda::sum_buffers<T>, sum_blocks, threads, 0, gradients, buffers, blocks_, derived, squares, place, state());
    graph.add({sum, draw}, cuda::finish_step<T>, place.blocks(), threads, 0, parameters, derived, mean, square, gradients, squares,
              static_cast<int>(sum_blocks), shares, tiles_, clip_, place, state());
  }

  Engine& engine_;
  cuda::QueuePointer queue_;
  Task task_;
  std::uint64_t seed_;
  double clip_;
  int batch_, tiles_ = 0, per_tile_ = 0, blocks_ = 0, boundary_states_ = 0;
  std::size_t activation_bytes_ = 0, workspace_bytes_ = 0;
  cuda::DeviceBuffer workspaces_{queue_}, buffers_{queue_}, indices_{queue_}, tokens_{queue_}, labels_{queue_}, places_{queue_}, shares_{queue_}, plan_{queue_},
      loss_{queue_}, state_{queue_};
  std::optional<cuda::Graph> graph_;
  std::tuple<T*, T*, T*, T*> of_graph_{};  // parameters, gradients, running means
};

}  // namespace mamba
