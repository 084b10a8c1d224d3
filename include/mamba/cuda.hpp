// The GPU: include it, in a file that nvcc compiles, beside the models that answer "where does it run?" with Cuda.
#pragma once

#ifndef __CUDACC__
#error "mamba/cuda.hpp is for CUDA sources (.cu), which nvcc compiles"
#endif

#include <mamba/model/cuda_engine.hpp>
