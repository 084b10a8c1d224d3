// The variants that the programs are built with for each task, each in a translation unit of its own
// (examples/experiments/CMakeLists.txt lists them).
#pragma once

#include <string>
#include <vector>

#include "run.hpp"
#include "support/gpu.hpp"

namespace runs {

template <class Experiment>
using Variants = std::vector<Built<Experiment>>;

const Variants<Composite>& composite_on_cpu();
const Variants<Composite>& composite_on_gpu();  // none without a CUDA compiler, as the other GPUs' lists
const Variants<FullSymmetry>& full_symmetry_on_cpu();
const Variants<FullSymmetry>& full_symmetry_on_gpu();
const Variants<Inverse>& inverse_on_cpu();
const Variants<Inverse>& inverse_on_gpu();

inline const Variants<Composite>& variants_of(Composite, bool gpu) {
  return gpu ? composite_on_gpu() : composite_on_cpu();
}
inline const Variants<FullSymmetry>& variants_of(FullSymmetry, bool gpu) {
  return gpu ? full_symmetry_on_gpu() : full_symmetry_on_cpu();
}
inline const Variants<Inverse>& variants_of(Inverse, bool gpu) { return gpu ? inverse_on_gpu() : inverse_on_cpu(); }

using support::gpu_count, support::gpu_problem;

}  // namespace runs
