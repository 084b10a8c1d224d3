// What the library and its tests use of the CUDA runtime, on the machine of machine.hpp: one device, whose memory is
// the host's, and whose streams have done what they are handed when the call returns. The language's own words come
// with it: this header is included before all others (-include).
#pragma once

// Before __noinline__ becomes a word: the standard library has attributes of that name.
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "machine.hpp"

#define __host__
#define __device__
#define __global__
#define __shared__ thread_local
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))

struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) double2 {
  double x, y;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline double2 make_double2(double x, double y) { return {x, y}; }

// Of a block's threads and a warp's lanes. All lanes take part in what a mask is given for.
inline void __syncthreads() { emulation::synchronise_block(); }
inline int __syncthreads_or(int own) { return emulation::any_of_block(own != 0) ? 1 : 0; }
inline void __syncwarp() { emulation::synchronise_warp(); }
template <class T>
T __shfl_sync(unsigned, T own, int from, int width = emulation::warp_size, int line = __builtin_LINE(),
              const char* file = __builtin_FILE()) {
  const auto lane = static_cast<int>(emulation::lane());
  return emulation::exchange(own, line, file)[static_cast<unsigned>(lane / width * width + from % width)];
}
template <class T>
T __shfl_xor_sync(unsigned, T own, int mask, int line = __builtin_LINE(), const char* file = __builtin_FILE()) {
  return emulation::exchange(own, line, file)[emulation::lane() ^ static_cast<unsigned>(mask)];
}
template <class T>
T __shfl_up_sync(unsigned, T own, int by, int width = emulation::warp_size, int line = __builtin_LINE(),
                 const char* file = __builtin_FILE()) {
  const auto lane = static_cast<int>(emulation::lane());
  const auto all = emulation::exchange(own, line, file);
  return lane % width >= by ? all[static_cast<unsigned>(lane - by)] : own;
}
template <class T>
T __shfl_down_sync(unsigned, T own, int by, int width = emulation::warp_size, int line = __builtin_LINE(),
                   const char* file = __builtin_FILE()) {
  const auto lane = static_cast<int>(emulation::lane());
  const auto all = emulation::exchange(own, line, file);
  return lane % width + by < width ? all[static_cast<unsigned>(lane + by)] : own;
}
inline unsigned __ballot_sync(unsigned, bool own, int line = __builtin_LINE(), const char* file = __builtin_FILE()) {
  const auto all = emulation::exchange(own, line, file);
  unsigned bits = 0;
  for (unsigned lane = 0; lane < emulation::warp_size; ++lane) bits |= all[lane] ? 1U << lane : 0U;
  return bits;
}

inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
// Byte i of the result is the one of both words, a's four first, that digit i of the selector names.
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const std::uint64_t both = static_cast<std::uint64_t>(b) << 32 | a;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i)
    result |= static_cast<unsigned>(both >> (8 * (selector >> (4 * i) & 7U)) & 0xFFU) << (8 * i);
  return result;
}
template <class T>
void __stwb(T* to, T from) {
  *to = from;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float rsqrt(float x) { return 1 / std::sqrt(x); }

// The runtime.
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorMemoryAllocation = 2 };
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned of_x = 1, unsigned of_y = 1, unsigned of_z = 1) : x(of_x), y(of_y), z(of_z) {}
};
struct cudaDeviceProp {
  char name[256];
  int major, minor;
  std::size_t totalGlobalMem;
  int multiProcessorCount;
};
struct cudaFuncAttributes {
  int ptxVersion;
};
using cudaStream_t = struct EmulatedStream*;
inline constexpr unsigned cudaStreamNonBlocking = 1;
#define CUDART_VERSION 13000

namespace emulation {
inline thread_local cudaError_t last_error = cudaSuccess;
inline cudaError_t told(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}
inline constexpr std::size_t memory_bytes = std::size_t{8} << 30;
}  // namespace emulation

inline cudaError_t cudaGetLastError() { return std::exchange(emulation::last_error, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : error == cudaErrorMemoryAllocation ? "out of memory" : "invalid argument";
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  return emulation::told(device == 0 ? cudaSuccess : cudaErrorInvalidValue);
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"an emulated device", 9, 0, emulation::memory_bytes, 4};
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 4 : static_cast<int>(emulation::most_shared_bytes);
  return cudaSuccess;
}
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaMemGetInfo(std::size_t* available, std::size_t* all) {
  return *available = *all = emulation::memory_bytes, cudaSuccess;
}

// Numbers that are none until they are written.
template <class T>
cudaError_t cudaMalloc(T** data, std::size_t bytes) {
  *data = nullptr;
  if (bytes > emulation::memory_bytes) return emulation::told(cudaErrorMemoryAllocation);
  void* const memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (!memory) return emulation::told(cudaErrorMemoryAllocation);
  *data = static_cast<T*>(std::memset(memory, 0xFF, bytes));
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* data) { return std::free(data), cudaSuccess; }
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                                   cudaStream_t = nullptr) {
  return cudaMemcpy(to, from, bytes, kind);
}
inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                                     std::size_t width, std::size_t height, cudaMemcpyKind, cudaStream_t = nullptr) {
  for (std::size_t i = 0; i < height; ++i)
    std::memcpy(static_cast<std::byte*>(to) + i * to_pitch, static_cast<const std::byte*>(from) + i * from_pitch,
                width);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t = nullptr) {
  if (bytes > 0) std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return *stream = nullptr, cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int bytes) {
  return emulation::told(bytes <= static_cast<int>(emulation::most_shared_bytes) ? cudaSuccess : cudaErrorInvalidValue);
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  return *attributes = {90}, cudaSuccess;
}
inline cudaError_t cudaLaunchKernel(const void* function, dim3 blocks, dim3 threads, void** arguments,
                                    std::size_t shared_bytes, cudaStream_t) {
  if (blocks.x == 0 || threads.x == 0) return emulation::told(cudaErrorInvalidValue);
  const auto* const kernel = static_cast<const emulation::Kernel*>(function);
  emulation::run(kernel->name(), blocks.x, threads.x, shared_bytes, kernel->bound(arguments));
  return cudaSuccess;
}

// Graphs: what was added runs in its order, which what it waits for respects.
struct EmulatedGraph {
  std::vector<std::function<void()>> nodes;
};
using cudaGraph_t = EmulatedGraph*;
using cudaGraphExec_t = EmulatedGraph*;
using cudaGraphNode_t = std::function<void()>*;
struct cudaKernelNodeParams {
  void* func;
  dim3 gridDim, blockDim;
  unsigned sharedMemBytes;
  void** kernelParams;
  void** extra;
};
struct cudaMemsetParams {
  void* dst;
  unsigned elementSize;
  std::size_t height, pitch;
  unsigned value;
  std::size_t width;
};
enum cudaGraphDependencyType { cudaGraphDependencyTypeDefault, cudaGraphDependencyTypeProgrammatic };
struct cudaGraphEdgeData {
  unsigned char from_port, to_port;
  cudaGraphDependencyType type;
};
inline constexpr unsigned char cudaGraphKernelNodePortProgrammatic = 1;

inline cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned) { return *graph = new EmulatedGraph, cudaSuccess; }
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t*, std::size_t,
                                          const cudaKernelNodeParams* parameters) {
  const auto* const kernel = static_cast<const emulation::Kernel*>(parameters->func);
  graph->nodes.push_back([name = kernel->name(), blocks = parameters->gridDim.x, threads = parameters->blockDim.x,
                          bytes = parameters->sharedMemBytes, call = kernel->bound(parameters->kernelParams)] {
    emulation::run(name, blocks, threads, bytes, call);
  });
  return *node = &graph->nodes.back(), cudaSuccess;
}
inline cudaError_t cudaGraphAddMemsetNode(cudaGraphNode_t* node, cudaGraph_t graph, const cudaGraphNode_t*, std::size_t,
                                          const cudaMemsetParams* parameters) {
  graph->nodes.push_back(
      [p = *parameters] { std::memset(p.dst, static_cast<int>(p.value), p.elementSize * p.width * p.height); });
  return *node = &graph->nodes.back(), cudaSuccess;
}
inline cudaError_t cudaGraphAddDependencies(cudaGraph_t, const cudaGraphNode_t*, const cudaGraphNode_t*,
                                            const cudaGraphEdgeData*, std::size_t) {
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  return *ready = new EmulatedGraph(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t ready, cudaStream_t) {
  for (const auto& node : ready->nodes) node();
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t ready) { return delete ready, cudaSuccess; }
