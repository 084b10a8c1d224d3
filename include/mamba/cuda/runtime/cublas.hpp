// cuBLAS as C++: a handle with an owner, errors that say what failed.
#pragma once

#if !__has_include(<cublas_v2.h>)
#error \
    "mamba: the Cuda backend needs cuBLAS's headers beside the CUDA compiler's own (packages libcublas-dev-* of CUDA, or nvidia-cublas of PyPI)"
#endif
#include <cublas_v2.h>

#include <type_traits>

#include <mamba/core/config.hpp>
#include <mamba/core/error.hpp>
#include <mamba/core/storage.hpp>

namespace mamba::cuda {

inline void check(cublasStatus_t result, const char* call) {
  if (result != CUBLAS_STATUS_SUCCESS)
    fail(ErrorKind::device_failed, "CUDA: ", call, " failed: ", cublasGetStatusString(result));
}

// On the device that is current when it is made, in the order of a stream. Products are of the precision of their
// operands, unless those of float may be of TF32, and the same bytes again for the same sizes; those of 16 bits are
// summed in float.
class Cublas {
 public:
  explicit Cublas(cudaStream_t stream, Products products = Products::exact) {
    check(cublasCreate(&handle_), "cublasCreate");
    check(cublasSetStream(handle_, stream), "cublasSetStream");
    of_float_ = products == Products::tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_PEDANTIC_MATH;
    set_mode(of_float_);
    stream_ = stream;
  }
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;
  ~Cublas() { cublasDestroy(handle_); }

  // Column-major c (m, n) <- a b + beta c with a (m, k) and b (k, n), either of them transposed in memory.
  void gemm(cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k, const float* a, int a_stride,
            const float* b, int b_stride, float beta, float* c, int c_stride) const {
    const float one = 1;
    check(cublasSgemm(handle_, of_a, of_b, m, n, k, &one, a, a_stride, b, b_stride, &beta, c, c_stride), "cublasSgemm");
    check_launch("cublasSgemm", stream_);
  }
  void gemm(cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k, const double* a, int a_stride,
            const double* b, int b_stride, double beta, double* c, int c_stride) const {
    const double one = 1;
    check(cublasDgemm(handle_, of_a, of_b, m, n, k, &one, a, a_stride, b, b_stride, &beta, c, c_stride), "cublasDgemm");
    check_launch("cublasDgemm", stream_);
  }
  template <class C>
  void gemm(cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k, const BFloat16* a, int a_stride,
            const BFloat16* b, int b_stride, float beta, C* c, int c_stride) const {
    static_assert(std::is_same_v<C, float> || std::is_same_v<C, BFloat16>);
    const float one = 1;
    set_mode(static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
    const auto result = cublasGemmEx(handle_, of_a, of_b, m, n, k, &one, a, CUDA_R_16BF, a_stride, b, CUDA_R_16BF,
                                     b_stride, &beta, c, std::is_same_v<C, float> ? CUDA_R_32F : CUDA_R_16BF, c_stride,
                                     CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    set_mode(of_float_);
    check(result, "cublasGemmEx");
    check_launch("cublasGemmEx", stream_);
  }

 private:
  void set_mode(cublasMath_t mode) const { check(cublasSetMathMode(handle_, mode), "cublasSetMathMode"); }

  cublasHandle_t handle_ = nullptr;
  cublasMath_t of_float_ = CUBLAS_PEDANTIC_MATH;
  cudaStream_t stream_ = nullptr;
};

}  // namespace mamba::cuda
