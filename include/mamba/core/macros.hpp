// The few words that differ between compilers.
#pragma once

#include <mamba/core/requirements.hpp>

#if defined(__CUDACC__)
#define MAMBA_HOST_DEVICE __host__ __device__
// Goes before `template` of a function that serves host backends and device backends alike: silences nvcc's check of
// the calls, which depend on the backend.
#define MAMBA_COMPOSITION _Pragma("nv_exec_check_disable")
#else
#define MAMBA_HOST_DEVICE
#define MAMBA_COMPOSITION
#endif

#if defined(_MSC_VER)
#define MAMBA_INLINE __forceinline
#else
#define MAMBA_INLINE inline __attribute__((always_inline))
#endif

// A function that keeps its own registers on the host. Inlined into the one caller that it has, GCC runs out of them
// there.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define MAMBA_OUT_OF_LINE __attribute__((noinline))
#else
#define MAMBA_OUT_OF_LINE
#endif

// After the parameters of a lambda in a kernel: inlined before registers are thought about; else GCC leaves arrays that
// should be registers in memory.
#if defined(__GNUC__)
#define MAMBA_INLINE_LAMBDA __attribute__((always_inline))
#else
#define MAMBA_INLINE_LAMBDA
#endif
