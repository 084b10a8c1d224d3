#include "gpu.hpp"

#include <mamba/model/device.hpp>

int support::gpu_count() { return mamba::gpu_count(); }
std::string support::gpu_problem(int index) { return mamba::gpu_problem(index); }
