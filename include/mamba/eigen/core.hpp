// The CPU's backend: one core. Its primitives are the functions of this namespace that take a Core first.
#pragma once

#include <mamba/core/memory.hpp>
#include <mamba/core/parameters.hpp>
#include <mamba/core/threads.hpp>
#include <mamba/eigen/causal_conv.hpp>
#include <mamba/eigen/embedding.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/rowwise.hpp>
#include <mamba/eigen/selective_scan.hpp>
#include <mamba/eigen/ssd.hpp>
#include <mamba/eigen/team.hpp>

namespace mamba::eigen {

struct Core {
  static constexpr bool fuses_convolution = false;
  Buffer scratch;              // what a primitive needs while it runs
  ThreadPool* team = nullptr;  // threads that have nothing else to do meanwhile
};

}  // namespace mamba::eigen
