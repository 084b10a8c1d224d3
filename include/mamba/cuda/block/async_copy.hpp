// Copies from global to shared memory that run beside the computation (cp.async, compute capability 8.0 and newer).
#pragma once

namespace mamba::cuda::detail {

// shared <- Bytes (4, 8 or 16) of global memory, or zeros where they do not exist. What 16 bytes copy is read once: it
// leaves no trace in the L1 cache.
template <int Bytes>
__device__ void copy_async(void* shared, const void* global, bool exists) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const int read = exists ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(read) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(Bytes), "r"(read)
                 : "memory");
}

// A thread's copies since the last call are one group; then it waits until at most `Pending` of its groups are under
// way.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

}  // namespace mamba::cuda::detail
