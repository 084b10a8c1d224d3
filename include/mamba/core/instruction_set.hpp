// Which vector instructions this source is compiled for, as the name of a namespace.
//
// A program may hold sources compiled for different processors. Templates of one name would be linked as one, whichever
// comes first, and run where their instructions do not exist, or over vectors of another width. So what computes on the
// CPU, and the models that run there, have names of their own for each: such a model handed from one such source to
// another does not link, rather than going wrong.
#pragma once

#include <mamba/core/requirements.hpp>

// Processors with a matrix unit (Intel's AMX, of Sapphire Rapids and newer) have other products.
// clang's older names of it are spelt otherwise.
#if (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BF16__) && defined(__linux__) && \
    defined(__GNUC__) && !defined(MAMBA_NO_AMX)
#define MAMBA_AMX
#define MAMBA_INSTRUCTION_SET avx512_amx
#elif defined(__AVX512F__)
#define MAMBA_INSTRUCTION_SET avx512
#elif defined(__AVX2__) && defined(__FMA__)
#define MAMBA_INSTRUCTION_SET avx2_fma
#elif defined(__AVX__) && defined(__FMA__)
#define MAMBA_INSTRUCTION_SET avx_fma
#elif defined(__AVX__)
#define MAMBA_INSTRUCTION_SET avx
#elif defined(__SSE4_1__)
#define MAMBA_INSTRUCTION_SET sse4
#elif defined(__SSE2__) || defined(_M_X64)
#define MAMBA_INSTRUCTION_SET sse2
#elif defined(__ARM_FEATURE_SVE)
#define MAMBA_INSTRUCTION_SET sve
#elif defined(__ARM_NEON)
#define MAMBA_INSTRUCTION_SET neon
#else
#define MAMBA_INSTRUCTION_SET generic
#endif
