// The device's instructions that C++ has no words for. A machine that has another way to do the same, as the tests'
// emulation, brings a header of this name.
#pragma once

#include <cstdint>

namespace mamba::cuda::detail {

// d (16, 8) += a (16, 8) b (8, 8), numbers of TF32 in registers of 32 bits, shared out over a warp's lanes: of d rows
// lane / 4 + 8 i and columns 2 (lane % 4) + j in d[2 i + j]; of a rows lane / 4 + 8 i and columns lane % 4 + 4 j; of b
// rows lane % 4 + 4 j and column lane / 4. Volatile, so that multiplications stay in their order: left to itself the
// compiler brings those of one result together, and each waits for the one before.
__device__ inline void multiply_add(float (&d)[4], const std::uint32_t (&a)[2][2], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0][0]), "r"(a[1][0]), "r"(a[0][1]), "r"(a[1][1]), "r"(b[0]), "r"(b[1]));
}

// d (16, 8) <- a b.
__device__ inline void multiply(float (&d)[4], const std::uint32_t (&a)[2][2], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, "
      "%10, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0][0]), "r"(a[1][0]), "r"(a[0][1]), "r"(a[1][1]), "r"(b[0]), "r"(b[1]), "f"(0.0F));
}

// d (16, 8) += a (16, 16) b (16, 8) of 16 bits, two of the sum's elements in a register, summed in float: as above, but
// that a's columns and b's rows are 2 (lane % 4) + {0, 1} + 8 j. a: of (i, j) in the order (0, 0), (1, 0), (0, 1),
// (1, 1).
__device__ inline void multiply_add_bfloat16(float& d0, float& d1, float& d2, float& d3, std::uint32_t a0,
                                             std::uint32_t a1, std::uint32_t a2, std::uint32_t a3, std::uint32_t b0,
                                             std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Four (8, 8) matrices of 16 bits from shared memory, of which each lane names a row of 16 bytes: lane 8 m + r row r of
// matrix m, whose row lane / 4, columns 2 (lane % 4) + {0, 1}, comes into to[m]; transposed: of the transposed ones.
template <bool transposed>
__device__ void load_matrices(std::uint32_t (&to)[4], const void* row) {
  const auto from = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

// An (8, 8) matrix of 16 bits, a row's neighbours in a lane's register, as its transposed one.
__device__ inline unsigned transposed(unsigned pair) {
  unsigned turned;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
  return turned;
}

// Two numbers rounded to 16 bits, in one word.
__device__ inline unsigned bfloat16_pair(float lower, float upper) {
  unsigned word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(upper), "f"(lower));
  return word;
}

// a b, rounded: whatever it is added to, it is not joined with it.
__device__ inline float rounded_product(float a, float b) { return __fmul_rn(a, b); }
__device__ inline double rounded_product(double a, double b) { return __dmul_rn(a, b); }

// Copies from global to shared memory that run beside the computation (compute capability 8.0 and newer):
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

// Every kernel over the grid calls it once: from there on it may read what those before it have written. In a graph it
// may be there before they are done (runtime/graph.hpp), and what follows it may come as soon as it has begun. Before
// it a kernel reads what the one just before it in no graph writes: weights, and states and histories of its own layer.
__device__ inline void begin_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

}  // namespace mamba::cuda::detail
