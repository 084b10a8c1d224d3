// What the library needs of a compiler and of its flags, said in words: every header includes this one first, directly
// or not.
#pragma once

#if defined(_MSC_VER) && !defined(__clang__)
#define MAMBA_CPLUSPLUS _MSVC_LANG
#else
#define MAMBA_CPLUSPLUS __cplusplus
#endif
#if MAMBA_CPLUSPLUS < 202002L
#error "mamba: the library needs C++20: compile with -std=c++20 (g++ 11, clang 14, nvcc 12.4 or newer)"
#endif

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__) || defined(_M_FP_FAST)
#error \
    "mamba: the library needs IEEE arithmetic: leave out -ffast-math, -Ofast and -ffinite-math-only (powers of two would be wrong, divergence unseen)"
#endif
// g++ says of its flags one by one what clang says of none: what re-associates sums.
#if defined(__ASSOCIATIVE_MATH__) && __ASSOCIATIVE_MATH__
#error \
    "mamba: the library needs IEEE arithmetic: leave out -fassociative-math and -funsafe-math-optimizations (powers of two would be wrong)"
#endif

#if !defined(__cpp_exceptions) && !defined(__EXCEPTIONS) && !defined(_CPPUNWIND) && !defined(__CUDA_ARCH__)
#error "mamba: the library reports errors by exceptions: leave out -fno-exceptions"
#endif
