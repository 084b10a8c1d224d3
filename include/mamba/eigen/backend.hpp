// The CPU's backend: one core. Its primitives are the functions of this namespace that take a Core first.
#pragma once

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/threads.hpp>
#include <mamba/eigen/causal_conv.hpp>
#include <mamba/eigen/embedding.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/ranked_gate.hpp>
#include <mamba/eigen/rotary_ssd.hpp>
#include <mamba/eigen/rowwise.hpp>
#include <mamba/eigen/selective_scan.hpp>
#include <mamba/eigen/ssd.hpp>
#include <mamba/eigen/team.hpp>
#include <mamba/eigen/trapezoid.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

// Made anew for each call, so that nothing of one call is left where another reads it.
struct Core {
  static constexpr bool fuses_convolution = false, fuses_steps = false, fuses_gated_norm = false,
                        splits_products = false, fuses_recurrence = false, adds_to_residual = false,
                        rounds_gradients = false, passes_states = true, fuses_token_steps = false;

  explicit Core(Buffer& memory, ThreadPool* threads = nullptr) : scratch(memory), team(threads) {}

  Buffer& scratch;         // what a primitive needs while it runs
  ThreadPool* const team;  // threads that have nothing else to do meanwhile
};

// to <- from.
template <class T>
void assign(Core&, T& to, const T& from) {
  to = from;
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
