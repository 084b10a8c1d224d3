// How the GPU's suites time what runs many times in a row.
#pragma once

#include <benchmark/benchmark.h>

#include "cuda_device.hpp"

namespace mamba::bench {

// The milliseconds of one of the `count` things that a reading() does, by the device's events: each reading's are the
// row's, their mean comes back. stream: in which they are done, where they do not wait for their end.
template <class Reading>
double time_readings(benchmark::State& state, int count, Reading&& reading, cudaStream_t stream = nullptr) {
  DeviceTimer timer(stream);
  double milliseconds = 0;
  for (auto _ : state) {
    timer.start();
    reading();
    const double one = timer.stop() / count;
    milliseconds += one;
    state.SetIterationTime(one / 1e3);
  }
  return milliseconds / static_cast<double>(state.iterations());
}

}  // namespace mamba::bench
