#include <mamba/model/device.hpp>

#include "variants.hpp"

int runs::gpu_count() { return mamba::gpu_count(); }
std::string runs::gpu_problem(int index) { return mamba::gpu_problem(index); }
