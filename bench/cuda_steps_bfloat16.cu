#include "cuda_steps.hpp"

[[maybe_unused]] static const bool added = mamba::bench::add_steps<mamba::BFloat16>();
