// Tasks whose samples the device draws for itself.
#pragma once

#include <mamba/core/error.hpp>
#include <mamba/network/network.hpp>

namespace mamba {

// Whether a task's train_sample() may run on a device; tasks say so.
template <class Task>
inline constexpr bool drawn_on_device = [] {
  if constexpr (requires { Task::draws_on_device; }) return static_cast<bool>(Task::draws_on_device);
  else return false;
}();

// Throws Error when the task's sequences are not the model's.
template <class A, class Task>
void check_drawn_task(const Task& task) {
  constexpr int longest = network::longest_sequence<A>();
  require(task.vocab_size <= A::config.vocab_size, "the task's ", task.vocab_size, " tokens are more than the model's ",
          A::config.vocab_size);
  require(longest == 0 || task.length <= longest, "the task's sequences of ", task.length,
          " tokens are longer than the model's max_seq_len ", longest);
}

}  // namespace mamba
