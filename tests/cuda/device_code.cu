// What CPU and GPU must share exactly: random numbers, permutations, the task's samples, drawn on the device and
// compared.
#include <cstdio>
#include <vector>

#include <mamba/core/random.hpp>
#include <mamba/task/composite_function.hpp>
#include <mamba/task/full_symmetry.hpp>
#include <mamba/task/inverse_sequence.hpp>

using mamba::Permutation;

constexpr int longest = 29;

struct Drawn {
  std::int32_t ids[longest], label;
  std::uint64_t place;
};

template <class Task>
__host__ __device__ Drawn draw(const Task& task, const Permutation& order, int i) {
  Drawn d{};
  d.place = order(static_cast<std::uint64_t>(i));
  d.label = task.train_sample(static_cast<std::int64_t>(d.place), d.ids);
  return d;
}

template <class Task>
__global__ void draw_all(Drawn* drawn, Task task, Permutation order, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) drawn[i] = draw(task, order, i);
}

template <class Task>
bool same_on_both(const char* name, const Task& task) {
  const auto count = static_cast<int>(task.train_samples());
  const Permutation order(static_cast<std::uint64_t>(count), 11, 3);
  Drawn* drawn = nullptr;
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(Drawn);
  if (cudaMalloc(&drawn, bytes) != cudaSuccess) return std::puts("no memory on the device"), false;
  draw_all<<<(count + 255) / 256, 256>>>(drawn, task, order, count);
  std::vector<Drawn> found(static_cast<std::size_t>(count));
  const bool ran = cudaGetLastError() == cudaSuccess &&
                   cudaMemcpy(found.data(), drawn, bytes, cudaMemcpyDeviceToHost) == cudaSuccess;
  cudaFree(drawn);
  if (!ran) return std::printf("%s: the kernel failed\n", name), false;
  for (int i = 0; i < count; ++i) {
    const Drawn expected = draw(task, order, i);
    const Drawn& d = found[static_cast<std::size_t>(i)];
    for (int t = 0; t < task.length; ++t)
      if (d.ids[t] != expected.ids[t]) return std::printf("%s: sample %d differs at %d\n", name, i, t), false;
    if (d.label != expected.label || d.place != expected.place)
      return std::printf("%s: sample %d differs\n", name, i), false;
  }
  std::printf("%s: %d samples drawn on the device are the host's\n", name, count);
  return true;
}

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0)
    return std::puts("compiled for CUDA; no device here: skipped"), 77;
  const bool same = same_on_both("composite function", mamba::task::CompositeFunction({.seed = 11})) &&
                    same_on_both("full symmetry", mamba::task::FullSymmetry({.seed = 11})) &&
                    same_on_both("inverse sequence", mamba::task::InverseSequence({.seed = 11}));
  return same ? 0 : 1;
}
