// What the GPU's suites share: time by the device's events, and what the device can do at most, from its own
// description.
#pragma once

#include <algorithm>

#include <mamba/composite.hpp>

namespace mamba::bench {

// Milliseconds on the device between start() and stop(), as a stream comes to them.
class DeviceTimer {
 public:
  explicit DeviceTimer(cudaStream_t stream = nullptr) : stream_(stream) {
    cuda::check(cudaEventCreate(&begin_), "cudaEventCreate"), cuda::check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  DeviceTimer(const DeviceTimer&) = delete;
  DeviceTimer& operator=(const DeviceTimer&) = delete;
  ~DeviceTimer() { cudaEventDestroy(begin_), cudaEventDestroy(end_); }

  void start() { cuda::check(cudaEventRecord(begin_, stream_), "cudaEventRecord"); }
  double stop() {
    cuda::check(cudaEventRecord(end_, stream_), "cudaEventRecord");
    cuda::check(cudaEventSynchronize(end_), "cudaEventSynchronize");
    float milliseconds = 0;
    cuda::check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return milliseconds;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

inline double attribute(cudaDeviceAttr which) {
  int value = 0;
  cuda::check(cudaDeviceGetAttribute(&value, which, 0), "cudaDeviceGetAttribute");
  return value;
}

// What a call cannot do without.
struct Work {
  double bytes = 0;        // of tensors read or written, each once
  double lane_ops = 0;     // multiply-adds, multiplications, additions
  double powers = 0;       // and other results of the special-function units
  double tensor_macs = 0;  // multiply-adds of the tensor cores, three TF32 ones for one of float
  double half_macs = 0;    // the same of numbers of 16 bits
};

// The least milliseconds that it takes with every unit at its peak: 128 float lanes, 16 special-function results and
// 1,024 TF32 multiply-adds (of compute capability 9.0), twice as many of 16 bits, a clock and multiprocessor, and the
// memory's bandwidth.
inline double floor_milliseconds(const Work& work) {
  const double clocks_per_ms = attribute(cudaDevAttrMultiProcessorCount) * attribute(cudaDevAttrClockRate);
  const double bytes_per_ms =
      2 * attribute(cudaDevAttrMemoryClockRate) * attribute(cudaDevAttrGlobalMemoryBusWidth) / 8;
  return std::max({work.bytes / bytes_per_ms, work.lane_ops / (128 * clocks_per_ms), work.powers / (16 * clocks_per_ms),
                   3 * work.tensor_macs / (1024 * clocks_per_ms), work.half_macs / (2048 * clocks_per_ms)});
}

}  // namespace mamba::bench
