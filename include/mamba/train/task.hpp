// What Trainer asks of a task: the contract of the tasks in task/ and of a program's own (examples/own_task.cpp).
//
//   length                              tokens of a sequence: a constant, or a member that does not change
//   train_samples() -> integer          how many training samples there are
//   train_sample(index, ids) -> label   writes sample number `index` to ids (length) and returns the token that the
//                                       model shall give behind it; a function of the index and the task's options
//                                       alone, which several threads may call at once
// and where it has them
//   vocab_size                          how many tokens there are, labels included: a constant, or a member that does
//                                       not change; must be there where samples are drawn on a GPU
//   draws_on_device = true              train_sample() is compiled for GPUs, too (MAMBA_HOST_DEVICE), and training does
//                                       not wait for the host
//   for_each_option(f)                  calls f(name, value) for all that decides the samples; checkpoints compare it
#pragma once

#include <concepts>
#include <cstdint>

namespace mamba {

template <class Task>
concept HasLength = requires(const Task& task) {
  { task.length } -> std::convertible_to<int>;
};
template <class Task>
concept HasSamples = requires(const Task& task, std::int64_t index, std::int32_t* ids) {
  { task.train_samples() } -> std::convertible_to<std::int64_t>;
  { task.train_sample(index, ids) } -> std::convertible_to<std::int32_t>;
};

// Says in words what a task lacks.
template <class Task>
constexpr bool check_task() {
  static_assert(HasLength<Task>, "mamba: the task has no `length`, the tokens of a sequence (train/task.hpp)");
  static_assert(
      HasSamples<Task>,
      "mamba: the task has no train_samples() or no train_sample(index, ids) -> label, both const (train/task.hpp)");
  if constexpr (requires { requires Task::draws_on_device; })
    static_assert(
        requires { Task::vocab_size; }, "mamba: a task that says draws_on_device needs a vocab_size (train/task.hpp)");
  return true;
}

}  // namespace mamba
