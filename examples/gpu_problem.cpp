#include <mamba/model/device.hpp>

#include "variants.hpp"

std::string runs::gpu_problem(int index) { return mamba::gpu_problem(index); }
