// Where a program's model runs, when that is decided at run time.
#pragma once

#include <charconv>
#include <string>
#include <string_view>
#include <utility>

#include <mamba/core/error.hpp>
#include <mamba/core/policies.hpp>
#ifdef __CUDACC__
#include <mamba/cuda/runtime/device.hpp>
#endif

namespace mamba {

// "auto", "cpu", "cuda" or "cuda:1", as users write it.
struct DeviceChoice {
  enum class Kind { automatic, cpu, cuda };
  Kind kind = Kind::automatic;
  int index = 0;  // of the GPU

  // Throws Error on anything else.
  static DeviceChoice parse(std::string_view text) {
    if (text == "auto") return {};
    if (text == "cpu") return {Kind::cpu};
    DeviceChoice choice{Kind::cuda};
    if (text == "cuda") return choice;
    constexpr std::string_view prefix = "cuda:";
    if (text.starts_with(prefix) && text.size() > prefix.size()) {
      const char *const begin = text.data() + prefix.size(), *const end = text.data() + text.size();
      const auto [stop, error] = std::from_chars(begin, end, choice.index);
      if (error == std::errc{} && stop == end && choice.index >= 0) return choice;
    }
    fail(ErrorKind::invalid_argument, "a device is auto, cpu, cuda or cuda:N; given ", text);
  }

  // Whether the GPU is to be used, `problem` being what keeps it from that (empty: nothing). Asked for by name it must
  // work: else throws Error(device_failed). "auto" falls back to the CPU.
  bool use_gpu(const std::string& problem) const {
    if (kind == Kind::cpu) return false;
    if (problem.empty()) return true;
    if (kind == Kind::cuda) fail(ErrorKind::device_failed, problem);
    return false;
  }
};

// What follows means one thing where nvcc compiles and another where it does not; a program may hold sources of both
// kinds, and each has its own.
#ifdef __CUDACC__
inline namespace compiled_for_cuda {
#else
inline namespace compiled_without_cuda {
#endif

// How many GPUs there are, whether this source's models can run on them or not.
inline int gpu_count() {
#ifdef __CUDACC__
  return cuda::device_count();
#else
  return 0;
#endif
}

// Why this source's models cannot run on GPU number `index`; empty if they can.
inline std::string gpu_problem([[maybe_unused]] int index = 0) {
#ifdef __CUDACC__
  return cuda::device_problem(index);
#else
  return "CUDA: this program was built without it";
#endif
}

// Calls f.template operator()<Backend>(), Backend being Cuda or Cpu as chosen, and returns its result; sets
// options.device.
//   on_device(DeviceChoice::parse("auto"), options, [&]<class Backend>() {
//     MambaForComposite<config, Backend> model(options);
//     ...
//   });
template <class Options, class F>
decltype(auto) on_device(const DeviceChoice& choice, [[maybe_unused]] Options& options, F&& f) {
  // Who wants the CPU does not wake the GPU's driver to be told of it.
  if (choice.use_gpu(choice.kind == DeviceChoice::Kind::cpu ? std::string() : gpu_problem(choice.index))) {
#ifdef __CUDACC__
    options.device = choice.index;
    return std::forward<F>(f).template operator()<Cuda>();
#endif
  }
  return std::forward<F>(f).template operator()<Cpu>();
}

}  // inline namespace

}  // namespace mamba
