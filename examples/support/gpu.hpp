// GPUs as programs see them whose own sources the CUDA compiler does not read: gpu.cpp says there are none, gpu.cu
// looks.
#pragma once

#include <string>

namespace support {

// GPUs of this machine that the programs could see.
int gpu_count();
// Why what is built for GPUs cannot run here on number `index`; empty if it can.
std::string gpu_problem(int index);

}  // namespace support
