// The products of cuBLAS that the library calls, in plain loops that add up in double.
#pragma once

#include <cuda_runtime.h>

enum cublasStatus_t { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_INVALID_VALUE };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasMath_t : unsigned {
  CUBLAS_DEFAULT_MATH = 0,
  CUBLAS_PEDANTIC_MATH = 2,
  CUBLAS_TF32_TENSOR_OP_MATH = 3,
  CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16
};
enum cudaDataType { CUDA_R_16BF, CUDA_R_32F };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT };
using cublasHandle_t = struct EmulatedProducts*;

inline const char* cublasGetStatusString(cublasStatus_t) { return "invalid value"; }
inline cublasStatus_t cublasCreate(cublasHandle_t* handle) { return *handle = nullptr, CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasDestroy(cublasHandle_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }

namespace emulation {

// Column-major c (m, n) <- alpha a b + beta c; get_a(i), get_b(i), get_c(i) and put_c(i, x) by elements' places.
template <class A, class B, class GetC, class PutC>
cublasStatus_t gemm(cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k, double alpha, A&& get_a,
                    int a_stride, B&& get_b, int b_stride, double beta, GetC&& get_c, PutC&& put_c, int c_stride) {
  const auto at = [](int row, int column, int stride, cublasOperation_t operation) {
    if (operation == CUBLAS_OP_T) std::swap(row, column);
    return static_cast<std::ptrdiff_t>(column) * stride + row;
  };
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < m; ++i) {
      double sum = 0;
      for (int l = 0; l < k; ++l) sum += get_a(at(i, l, a_stride, of_a)) * get_b(at(l, j, b_stride, of_b));
      const std::ptrdiff_t place = at(i, j, c_stride, CUBLAS_OP_N);
      put_c(place, alpha * sum + (beta == 0 ? 0 : beta * get_c(place)));
    }
  return CUBLAS_STATUS_SUCCESS;
}
template <class T>
cublasStatus_t gemm_of(cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k, T alpha, const T* a,
                       int a_stride, const T* b, int b_stride, T beta, T* c, int c_stride) {
  return gemm(
      of_a, of_b, m, n, k, static_cast<double>(alpha), [&](auto i) { return static_cast<double>(a[i]); }, a_stride,
      [&](auto i) { return static_cast<double>(b[i]); }, b_stride, static_cast<double>(beta),
      [&](auto i) { return static_cast<double>(c[i]); }, [&](auto i, double x) { c[i] = static_cast<T>(x); }, c_stride);
}

inline float of_bfloat16(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
inline std::uint16_t to_bfloat16(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (x != x) return static_cast<std::uint16_t>(bits >> 16 | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16);
}

}  // namespace emulation

inline cublasStatus_t cublasSgemm(cublasHandle_t, cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k,
                                  const float* alpha, const float* a, int a_stride, const float* b, int b_stride,
                                  const float* beta, float* c, int c_stride) {
  return emulation::gemm_of(of_a, of_b, m, n, k, *alpha, a, a_stride, b, b_stride, *beta, c, c_stride);
}
inline cublasStatus_t cublasDgemm(cublasHandle_t, cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k,
                                  const double* alpha, const double* a, int a_stride, const double* b, int b_stride,
                                  const double* beta, double* c, int c_stride) {
  return emulation::gemm_of(of_a, of_b, m, n, k, *alpha, a, a_stride, b, b_stride, *beta, c, c_stride);
}
// a and b of 16 bits, alpha and beta float.
inline cublasStatus_t cublasGemmEx(cublasHandle_t, cublasOperation_t of_a, cublasOperation_t of_b, int m, int n, int k,
                                   const void* alpha, const void* a, cudaDataType, int a_stride, const void* b,
                                   cudaDataType, int b_stride, const void* beta, void* c, cudaDataType of_c,
                                   int c_stride, cublasComputeType_t, cublasGemmAlgo_t) {
  const auto number = [](const void* data) {
    return [data](std::ptrdiff_t i) {
      return static_cast<double>(emulation::of_bfloat16(static_cast<const std::uint16_t*>(data)[i]));
    };
  };
  const auto scale = [](const void* x) { return static_cast<double>(*static_cast<const float*>(x)); };
  if (of_c == CUDA_R_32F) {
    auto* const to = static_cast<float*>(c);
    return emulation::gemm(
        of_a, of_b, m, n, k, scale(alpha), number(a), a_stride, number(b), b_stride, scale(beta),
        [&](auto i) { return static_cast<double>(to[i]); }, [&](auto i, double x) { to[i] = static_cast<float>(x); },
        c_stride);
  }
  auto* const to = static_cast<std::uint16_t*>(c);
  return emulation::gemm(
      of_a, of_b, m, n, k, scale(alpha), number(a), a_stride, number(b), b_stride, scale(beta), number(c),
      [&](auto i, double x) { to[i] = emulation::to_bfloat16(static_cast<float>(x)); }, c_stride);
}
