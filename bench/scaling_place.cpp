// Where the models of this program run: on the CPU, or, compiled by nvcc (scaling_place.cu), on a GPU.
#include <mamba/core/error.hpp>
#include <mamba/model/device.hpp>

#include "scaling.hpp"

#ifdef __CUDACC__

const bool scaling::on_gpu = true;

std::string scaling::place(const Plan&) {
  if (const std::string problem = mamba::gpu_problem(); !problem.empty())
    mamba::fail(mamba::ErrorKind::device_failed, problem);
  cudaDeviceProp properties{};
  mamba::cuda::check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  return properties.name;
}

#else

const bool scaling::on_gpu = false;

std::vector<scaling::PromptModel> scaling::prompt_models() { return {}; }

std::string scaling::place(const Plan& plan) {
  if (plan.threads == 0) return "all cores";
  return plan.threads == 1 ? "one thread" : std::to_string(plan.threads) + " threads";
}

#endif
