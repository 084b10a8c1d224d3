// The CUDA runtime's calls as C++: errors that say what failed, memory with an owner, values that host and device share.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <mamba/core/error.hpp>
#include <mamba/core/memory.hpp>

namespace mamba::cuda {

// Throws Error(device_failed) with the call's name and the runtime's reason.
inline void check(cudaError_t result, const char* call) {
  if (result == cudaSuccess) return;
  cudaGetLastError();  // what was recorded is told here, and not again
  fail(ErrorKind::device_failed, "CUDA: ", call, " failed: ", cudaGetErrorString(result));
}

inline int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) cudaGetLastError(), count = 0;
  return count;
}

// Why models cannot run on this device; empty if they can.
inline std::string device_problem(int device) {
  const int count = device_count();
  if (count == 0) return "CUDA: no device";
  if (device < 0 || device >= count) return "CUDA: device " + std::to_string(device) + " is not in 0.." + std::to_string(count - 1);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  if (properties.major >= 8) return "";
  return std::string("CUDA: ") + properties.name + " has compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) +
         "; 8.0 is needed";
}

// The current device of a thread, for as long as a call lasts.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "cudaGetDevice");
    if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice"), changed_ = true;
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

// A device and the order in which what one owner hands to it is done: every launch, copy and product of an engine goes here. It waits for
// no other, and no other for it, so that models in several threads do not know of each other.
class Queue {
 public:
  explicit Queue(int device) : device_(device) {
    const OnDevice on(device);
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  ~Queue() { cudaStreamDestroy(stream_); }

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  int device_;
  cudaStream_t stream_ = nullptr;
};
using QueuePointer = std::shared_ptr<const Queue>;

// Kernels and what each of them waits for, to be launched as a whole. Put together node by node: recording a stream would forbid the
// program's other threads to synchronise the device meanwhile, and be broken by them (as cuBLAS does when one of its handles goes).
class Graph {
 public:
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
  Node add(std::initializer_list<Node> after, void (*kernel)(Parameters...), unsigned blocks, unsigned threads, std::size_t shared_bytes,
           const std::type_identity_t<Parameters>&... arguments) {
    void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
    cudaKernelNodeParams parameters{};
    parameters.func = reinterpret_cast<void*>(kernel);
    parameters.gridDim = dim3(blocks), parameters.blockDim = dim3(threads);
    parameters.sharedMemBytes = static_cast<unsigned>(shared_bytes), parameters.kernelParams = pointers;
    Node node = nullptr;
    check(cudaGraphAddKernelNode(&node, graph_, std::data(after), after.size(), &parameters), "cudaGraphAddKernelNode");
    return node;
  }

  // The first call, which follows the last add(), makes it ready.
  void launch(const Queue& queue) {
    if (!ready_) check(cudaGraphInstantiate(&ready_, graph_, 0), "cudaGraphInstantiate");
    check(cudaGraphLaunch(ready_, queue.stream()), "cudaGraphLaunch");
  }

 private:
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t ready_ = nullptr;
};

// How often this program has taken memory on a device: steps that take none leave it as it is.
inline std::atomic<long>& device_allocations() {
  static std::atomic<long> count{0};
  return count;
}

// Bytes on a queue's device, in its order; without a queue on the device that is current, in the order of the default stream. Grows by
// reallocation (contents are lost), never shrinks; what it gets is zeroed.
class DeviceBuffer {
 public:
  explicit DeviceBuffer(QueuePointer queue = {}) : queue_(std::move(queue)) {}
  explicit DeviceBuffer(std::size_t bytes) { reserve(bytes); }
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : queue_(std::move(other.queue_)), data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(queue_, other.queue_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer() { release(); }

  void reserve(std::size_t bytes) {
    if (bytes <= bytes_) return;
    release();
    std::optional<OnDevice> on;
    if (queue_) on.emplace(queue_->device());
    ++device_allocations();
    if (const cudaError_t result = cudaMalloc(&data_, bytes); result != cudaSuccess) {
      data_ = nullptr;
      if (result == cudaErrorMemoryAllocation) out_of_memory(bytes);
      check(result, "cudaMalloc");
    }
    bytes_ = bytes;
    check(cudaMemsetAsync(data_, 0, bytes, stream()), "cudaMemsetAsync");
  }

  std::size_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

  template <class T>
  void upload(const T* from, std::size_t count) {
    reserve(count * sizeof(T));
    check(cudaMemcpyAsync(data_, from, count * sizeof(T), cudaMemcpyHostToDevice, stream()), "cudaMemcpyAsync to the device");
  }
  // Returns when it is there.
  template <class T>
  void download(T* to, std::size_t count) const {
    check(cudaMemcpyAsync(to, data_, count * sizeof(T), cudaMemcpyDeviceToHost, stream()), "cudaMemcpyAsync from the device");
    check(cudaStreamSynchronize(stream()), "cudaStreamSynchronize");
  }

 private:
  cudaStream_t stream() const { return queue_ ? queue_->stream() : nullptr; }

  void release() {
    if (!data_) return;
    cudaStreamSynchronize(stream());  // who frees it may come before who uses it is done
    cudaFree(std::exchange(data_, nullptr));
    bytes_ = 0;
  }

  [[noreturn]] static void out_of_memory(std::size_t bytes) {
    cudaGetLastError();
    std::size_t available = 0, all = 0;
    check(cudaMemGetInfo(&available, &all), "cudaMemGetInfo");
    fail(ErrorKind::device_failed, "CUDA: ", bytes, " bytes of device memory are needed; ", available, " of ", all,
         " are free. A smaller batch, or a smaller ModelOptions::tile_bytes for models that run over the whole device, takes less");
  }

  QueuePointer queue_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// An array that host and device both see: copied when one asks for what the other has written. A copy goes its own way.
class Mirrored {
 public:
  Mirrored(QueuePointer queue, std::size_t bytes) : queue_(std::move(queue)), host_(bytes), device_(queue_) { device_.reserve(bytes); }
  Mirrored(const Mirrored& other) : Mirrored(other.queue_, other.host_.bytes()) {
    if (other.newest_ == Newest::device) {
      check(cudaMemcpyAsync(device_.data(), other.device_.data(), device_.bytes(), cudaMemcpyDeviceToDevice, queue_->stream()), "cudaMemcpyAsync");
    } else {
      host_ = other.host_;
    }
    newest_ = other.newest_ == Newest::device ? Newest::device : Newest::host;
  }
  Mirrored& operator=(const Mirrored& other) { return *this = Mirrored(other); }
  Mirrored(Mirrored&&) noexcept = default;
  Mirrored& operator=(Mirrored&&) noexcept = default;

  // The host's: to read, or to write as well.
  template <class T>
  const T* as() const {
    if (newest_ == Newest::device) device_.download(host_.as<std::byte>(), host_.bytes()), newest_ = Newest::both;
    return host_.as<T>();
  }
  template <class T>
  T* as() {
    std::as_const(*this).as<T>();
    newest_ = Newest::host;
    return host_.as<T>();
  }
  // The device's.
  template <class T>
  const T* on_device() const {
    if (newest_ == Newest::host) device_.upload(host_.as<std::byte>(), host_.bytes()), newest_ = Newest::both;
    return device_.as<T>();
  }
  template <class T>
  T* on_device() {
    std::as_const(*this).on_device<T>();
    newest_ = Newest::device;
    return device_.as<T>();
  }
  // From now on in the order of another queue, perhaps on another device.
  void move_to(const QueuePointer& queue) {
    if (queue == queue_) return;
    as<std::byte>();
    queue_ = queue;
    device_ = DeviceBuffer(queue);
    device_.reserve(host_.bytes());
  }
  std::size_t bytes() const { return host_.bytes() + device_.bytes(); }

 private:
  enum class Newest { both, host, device };
  QueuePointer queue_;
  mutable Buffer host_;
  mutable DeviceBuffer device_;
  mutable Newest newest_ = Newest::both;
};

}  // namespace mamba::cuda
