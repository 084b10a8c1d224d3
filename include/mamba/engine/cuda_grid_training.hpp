// Training over the whole device without the host: a step is one graph of kernels, from the drawing of its batch to the
// update; or where cuBLAS has a part in it, which no graph holds, its kernels launched one after the other.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include <mamba/cuda/kernels/training.hpp>
#include <mamba/cuda/runtime/graph.hpp>
#include <mamba/engine/cuda_arenas.hpp>
#include <mamba/engine/cuda_drawn.hpp>
#include <mamba/engine/cuda_grid_runner.hpp>
#include <mamba/engine/cuda_packed.hpp>

namespace mamba {

template <class A>
class CudaGridEngine;

// Task: as Trainer's, and its train_sample() runs on the device.
template <class A, class Task>
class CudaGridTraining {
  using T = typename A::Scalar;
  using Arena = typename CudaArenas<A>::Arena;
  using Runner = GridRunner<A>;

 public:
  // Of one call of run(). When a training stops, the steps planned behind it are done for nothing.
  static constexpr long most_steps() { return 32; }

  // Holds the model's arenas and the runner, whose memory it shares with other calls. Throws Error when the task's
  // sequences are not the model's, or the device's memory does not suffice.
  CudaGridTraining(CudaGridEngine<A>& engine, const Task& task, int batch, std::uint64_t seed, double clip)
      : arenas_(engine),
        runner_(engine.runner()),
        queue_(engine.queue()),
        task_(task),
        seed_(seed),
        clip_(clip),
        batch_(batch) {
    check_drawn_task<A>(task);
    const cuda::OnDevice on(queue_->device());
    const auto sequences = static_cast<std::size_t>(batch);
    tokens_.reserve(sequences * static_cast<std::size_t>(task.length) * sizeof(int));
    labels_.reserve(sequences * sizeof(int));
    losses_.reserve(sequences * sizeof(double));
    sums_.reserve(2 * sizeof(double));
    plan_.reserve(most_steps() * sizeof(math::PlannedStep));
    const cuda::TrainingState state;
    state_.upload(&state, 1);
    steps_of(batch);
    if (const auto rest = static_cast<int>(task.train_samples() % batch)) steps_of(rest);  // an epoch's last
    for (const Steps& steps : steps_) runner_->reserve_for(steps.batch, arenas_.n_layers());
    queue_->wait();  // what was handed over goes out of scope
  }

  std::size_t memory_bytes() const {
    std::size_t sum = 0;
    for (const auto* buffer : {&tokens_, &labels_, &losses_, &sums_, &plan_, &state_}) sum += buffer->bytes();
    for (const Steps& steps : steps_) sum += steps.batch.bytes();
    return sum;
  }

  // Up to most_steps steps, the update being AdamW's with the arenas mean and square. The losses are added to loss_sum
  // one by one, so that it is the same wherever a run is cut. Returns the state at their end: how many are done, and
  // whether the next one stopped the training.
  cuda::TrainingState run(std::span<const math::PlannedStep> plan, Arena& mean, Arena& square, double loss_sum) {
    const cuda::OnDevice on(queue_->device());
    require(plan.size() <= static_cast<std::size_t>(most_steps()), "a plan of ", plan.size(), " steps; at most ",
            most_steps(), " are made at once");
    plan_.upload(plan.data(), plan.size());
    cuda::TrainingState state;
    state.planned = static_cast<long long>(plan.size());
    state.loss_sum = loss_sum;
    state_.upload(&state, 1);
    const network::ModelWeights<A> weights = arenas_.weights();
    const Pointers now{weights,
                       arenas_.parameters_on_device(),
                       arenas_.derived_on_device(),
                       arenas_.gradients_on_device(),
                       mean.template on_device<T>(),
                       square.template on_device<T>()};
    for (const math::PlannedStep& step : plan) run_step(now, steps_of(step.sequences));
    state_.download(&state, 1);
    if (state.stopped) {  // the steps behind it have written over its gradients, but drawn no other batch
      add_gradients(now, steps_of(plan[static_cast<std::size_t>(state.done)].sequences));
      arenas_.sum_gradients(now.gradients, 1);
    }
    return state;
  }

 private:
  struct Pointers {
    network::ModelWeights<A> weights;
    T *parameters, *derived, *gradients, *mean, *square;
  };
  using Addresses = std::array<const void*, 7>;
  // Those that show as many sequences: all, or what is left at an epoch's end.
  struct Steps {
    Steps(int count, DrawnTiles tiles) : sequences(count), batch(std::move(tiles)) {}

    int sequences;
    DrawnTiles batch;
    std::optional<cuda::Graph> graph;
    bool whole = false;  // the graph: nothing went wrong while it was recorded
    Addresses of_graph{};
    bool has_run = false;
  };

  Steps& steps_of(int sequences) {
    for (Steps& steps : steps_)
      if (steps.sequences == sequences) return steps;
    return steps_.emplace_back(sequences, runner_->drawn_tiles(arenas_.n_layers(), sequences, task_.length));
  }

  // The first of its kind runs kernel by kernel, which has all memory there. Where the runner's has moved for another
  // call, or the optimiser's means have, the graph is made anew.
  void run_step(const Pointers& now, Steps& steps) {
    const auto [workspace, scratch] = runner_->reserve_for(steps.batch, arenas_.n_layers());
    const bool first = !steps.has_run;
    if (first) add_step(now, steps), steps.has_run = true;
    const Addresses addresses{now.parameters, now.derived, now.gradients, now.mean, now.square, workspace, scratch};
    if (recordable_ && (!steps.whole || steps.of_graph != addresses)) {
      steps.whole = false;
      try {
        runner_->grid().record(steps.graph.emplace(), [&] { add_step(now, steps); });
        steps.whole = true, steps.of_graph = addresses;
      } catch (const cuda::NotRecordable&) {
        steps.graph.reset(), recordable_ = false;
      }
    }
    if (first) return;
    if (recordable_) steps.graph->launch(*queue_);
    else add_step(now, steps);
  }

  // A step's kernels: the batch, its gradients, their norm and the loss, the update.
  void add_step(const Pointers& now, Steps& steps) {
    cuda::Grid& grid = runner_->grid();
    constexpr int threads = cuda::Block::threads;
    const auto elements = arenas_.elements();
    const cuda::LaunchShape of_elements{elements.blocks(), threads}, one{1, threads};
    auto* const state = state_.template as<cuda::TrainingState>();
    double *const squares = arenas_.squares_on_device(), *const loss = sums_.template as<double>();
    const cuda::DrawnBatch drawn{.tokens = tokens_.template as<int>(),
                                 .labels = labels_.template as<int>(),
                                 .loss = nullptr,
                                 .ranges = nullptr,
                                 .batch = batch_,
                                 .tiles = 0,
                                 .per_tile = 0,
                                 .boundary_states = 0,
                                 .turns = 1};
    grid.launch_behind("draw_batch", cuda::draw_batch<Task>, {(batch_ + threads - 1) / threads, threads}, drawn, task_,
                       seed_, plan_.template as<math::PlannedStep>(), state, 0);
    add_gradients(now, steps);
    grid.launch_behind("sum_buffers", cuda::sum_buffers<T>, of_elements, now.gradients, now.gradients, 1, now.derived,
                       squares, elements, state);
    grid.launch_behind("add_up", cuda::add_up<double>, one, loss, losses_.template as<double>(), steps.sequences);
    grid.launch_behind("add_up", cuda::add_up<double>, one, loss + 1, squares, of_elements.blocks);
    grid.launch_behind("finish_step", cuda::finish_step<T>, of_elements, now.parameters, now.derived, now.mean,
                       now.square, now.gradients, loss + 1, 1, loss, 1, clip_, elements, state);
    arenas_.store_weights([&](auto kernel, int kernel_blocks, auto... arguments) {
      grid.launch_behind("store_values", kernel, {kernel_blocks, threads}, arguments...);
    });
  }

  void add_gradients(const Pointers& now, Steps& steps) {
    runner_->drawn_gradients(now.weights, now.gradients, steps.batch, tokens_.template as<int>(),
                             labels_.template as<int>(), losses_.template as<double>());
  }

  CudaArenas<A>& arenas_;
  std::shared_ptr<Runner> runner_;
  cuda::QueuePointer queue_;
  Task task_;
  std::uint64_t seed_;
  double clip_;
  int batch_;
  cuda::DeviceBuffer tokens_{queue_}, labels_{queue_}, losses_{queue_}, sums_{queue_}, plan_{queue_}, state_{queue_};
  std::deque<Steps> steps_;  // a graph does not move
  bool recordable_ = true;
};

}  // namespace mamba
