#include <mamba/model/device.hpp>

#include "composite_variants.hpp"

std::string composite_run::gpu_problem(int index) { return mamba::gpu_problem(index); }
