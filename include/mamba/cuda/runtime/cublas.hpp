// cuBLAS as C++: a handle with an owner, errors that say what failed.
#pragma once

#if !__has_include(<cublas_v2.h>)
#error \
    "mamba: the Cuda backend needs cuBLAS's headers beside the CUDA compiler's own (packages libcublas-dev-* of CUDA, or nvidia-cublas of PyPI)"
#endif
#include <cublas_v2.h>

#include <mamba/core/config.hpp>
#include <mamba/core/error.hpp>

namespace mamba::cuda {

inline void check(cublasStatus_t result, const char* call) {
  if (result != CUBLAS_STATUS_SUCCESS)
    fail(ErrorKind::device_failed, "CUDA: ", call, " failed: ", cublasGetStatusString(result));
}

// On the device that is current when it is made, in the order of a stream. Products are of the precision of their
// operands, unless those of float may be of TF32, and the same bytes again for the same sizes.
class Cublas {
 public:
  explicit Cublas(cudaStream_t stream, Products products = Products::exact) {
    check(cublasCreate(&handle_), "cublasCreate");
    check(cublasSetStream(handle_, stream), "cublasSetStream");
    check(cublasSetMathMode(handle_, products == Products::tf32 ? CUBLAS_TF32_TENSOR_OP_MATH : CUBLAS_PEDANTIC_MATH),
          "cublasSetMathMode");
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

 private:
  cublasHandle_t handle_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

}  // namespace mamba::cuda
