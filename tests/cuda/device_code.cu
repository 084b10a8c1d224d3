// What CPU and GPU must share exactly: random numbers, permutations, the task's samples, drawn on the device and compared.
#include <cstdio>
#include <vector>

#include <mamba/core/random.hpp>
#include <mamba/task/composite_function.hpp>

using mamba::Permutation;
using Task = mamba::task::CompositeFunction;

struct Drawn {
  std::int32_t ids[8], label;
  std::uint64_t place;
};

__host__ __device__ Drawn draw(const Task& task, const Permutation& order, int i) {
  Drawn d;
  d.place = order(static_cast<std::uint64_t>(i));
  d.label = task.train_sample(static_cast<std::int64_t>(d.place), d.ids);
  return d;
}

__global__ void draw_all(Drawn* drawn, Task task, Permutation order, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) drawn[i] = draw(task, order, i);
}

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) return std::puts("compiled for CUDA; no device here: skipped"), 77;
  constexpr int count = 300'000;
  const Task task({.seed = 11});
  const Permutation order(count, 11, 3);
  Drawn* drawn = nullptr;
  if (cudaMallocManaged(&drawn, count * sizeof(Drawn)) != cudaSuccess) return 1;
  draw_all<<<(count + 255) / 256, 256>>>(drawn, task, order, count);
  if (cudaGetLastError() != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess) return std::puts("the kernel failed"), 1;
  for (int i = 0; i < count; ++i) {
    const Drawn expected = draw(task, order, i);
    for (int t = 0; t < 8; ++t)
      if (drawn[i].ids[t] != expected.ids[t]) return std::printf("sample %d differs at %d\n", i, t), 1;
    if (drawn[i].label != expected.label || drawn[i].place != expected.place) return std::printf("sample %d differs\n", i), 1;
  }
  std::printf("%d samples drawn on the device are the host's\n", count);
  return 0;
}
