// The CPU's backend: one core. Its primitives are the functions of this namespace that take a Core first.
#pragma once

#include <mamba/core/memory.hpp>
#include <mamba/core/parameters.hpp>
#include <mamba/eigen/causal_conv.hpp>
#include <mamba/eigen/embedding.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/rowwise.hpp>
#include <mamba/eigen/selective_scan.hpp>
#include <mamba/eigen/ssd.hpp>

namespace mamba::eigen {

// What a core needs for itself while a primitive runs.
struct Core {
  Buffer scratch;
};

}  // namespace mamba::eigen
