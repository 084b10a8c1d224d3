// The CPU's backend: one core. Its primitives are the functions of this namespace that take a Core first.
#pragma once

#include <mamba/core/parameters.hpp>
#include <mamba/eigen/causal_conv.hpp>
#include <mamba/eigen/linear.hpp>
#include <mamba/eigen/rowwise.hpp>
#include <mamba/eigen/selective_scan.hpp>

namespace mamba::eigen {

// A core holds nothing of its own; that it is an argument makes the primitives' names resolve here.
struct Core {};

}  // namespace mamba::eigen
