// A CUDA graph put together kernel by kernel.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <type_traits>

#include <mamba/cuda/runtime/launch.hpp>
#include <mamba/cuda/runtime/queue.hpp>

namespace mamba::cuda {

// Kernels, and memory that is set to zero, and what each of them waits for, to be launched as a whole. Put together
// node by node: recording a stream would forbid the program's other threads to synchronise the device meanwhile, and be
// broken by them (as cuBLAS does when one of its handles goes).
class Graph {
 public:
  // How many have been launched so far, in the whole program: for tests.
  static std::atomic<long>& launches() {
    static std::atomic<long> count{0};
    return count;
  }

  using Node = cudaGraphNode_t;

  Graph() { check(cudaGraphCreate(&graph_, 0), "cudaGraphCreate"); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() {
    if (ready_) cudaGraphExecDestroy(ready_);
    cudaGraphDestroy(graph_);
  }

  // A kernel that begins when those in `after` are done; the arguments are copied now.
  template <class... Parameters>
  Node add(std::initializer_list<Node> after, void (*kernel)(Parameters...), LaunchShape shape,
           const std::type_identity_t<Parameters>&... arguments) {
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))..., nullptr};
    cudaKernelNodeParams parameters{};
    parameters.func = const_cast<void*>(function_of(kernel));
    parameters.gridDim = dim3(static_cast<unsigned>(shape.blocks));
    parameters.blockDim = dim3(static_cast<unsigned>(shape.threads));
    parameters.sharedMemBytes = static_cast<unsigned>(shape.shared_bytes), parameters.kernelParams = pointers;
    Node node = nullptr;
    check(cudaGraphAddKernelNode(&node, graph_, std::data(after), after.size(), &parameters), "cudaGraphAddKernelNode");
    return node;
  }

  // One that waits itself, by griddepcontrol.wait, until the one appended before is done, where the device knows that
  // instruction (compute capability 9.0): its blocks are there when their turn comes. Elsewhere it begins then.
  template <class... Parameters>
  void append(void (*kernel)(Parameters...), LaunchShape shape, const std::type_identity_t<Parameters>&... arguments) {
    if (!last_is_kernel_ || !waits_itself(function_of(kernel))) return append_behind(kernel, shape, arguments...);
    const Node node = add({}, kernel, shape, arguments...);
    connect_early(last_, node);
    last_ = node;
  }
  // One that begins when what was appended before is done.
  template <class... Parameters>
  void append_behind(void (*kernel)(Parameters...), LaunchShape shape,
                     const std::type_identity_t<Parameters>&... arguments) {
    last_ = last_ ? add({last_}, kernel, shape, arguments...) : add({}, kernel, shape, arguments...);
    last_is_kernel_ = true;
  }
  // Zeros, behind what was appended before.
  void append_zeros(void* data, std::size_t bytes) {
    if (bytes == 0) return;
    cudaMemsetParams parameters{};
    parameters.dst = data, parameters.elementSize = 1, parameters.width = bytes, parameters.height = 1;
    Node node = nullptr;
    check(cudaGraphAddMemsetNode(&node, graph_, &last_, last_ ? 1 : 0, &parameters), "cudaGraphAddMemsetNode");
    last_ = node, last_is_kernel_ = false;
  }

  // The first call, which follows the last add() or append(), makes it ready.
  void launch(const Queue& queue) {
    if (!ready_) check(cudaGraphInstantiate(&ready_, graph_, 0), "cudaGraphInstantiate");
    check(cudaGraphLaunch(ready_, queue.stream()), "cudaGraphLaunch");
    ++launches();
    check_launch("a graph of kernels", queue.stream());
  }

 private:
  // Whether the kernel was compiled for devices that know how to, and the driver knows such edges.
  static bool waits_itself(const void* kernel) {
    int driver = 0;
    check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
    return attributes.ptxVersion >= 90 && driver >= 12030;
  }

  void connect_early(Node from, Node to) {
    cudaGraphEdgeData edge{};
    edge.from_port = cudaGraphKernelNodePortProgrammatic, edge.type = cudaGraphDependencyTypeProgrammatic;
#if CUDART_VERSION >= 13000
    const cudaError_t result = cudaGraphAddDependencies(graph_, &from, &to, &edge, 1);
#else
    const cudaError_t result = cudaGraphAddDependencies_v2(graph_, &from, &to, &edge, 1);
#endif
    check(result, "cudaGraphAddDependencies");
  }

  cudaGraph_t graph_ = nullptr;
  Node last_ = nullptr;
  bool last_is_kernel_ = false;
  cudaGraphExec_t ready_ = nullptr;
};

}  // namespace mamba::cuda
