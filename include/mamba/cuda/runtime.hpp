// The CUDA runtime's calls as C++: errors that say what failed, memory with an owner, values that host and device share.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>
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
    if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice");
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() { cudaSetDevice(before_); }

 private:
  int before_ = 0;
};

// An order of its own for what a host thread hands to the current device.
class Stream {
 public:
  Stream() { check(cudaStreamCreate(&stream_), "cudaStreamCreate"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }

  cudaStream_t get() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  cudaStream_t stream_ = nullptr;
};

// A second order beside another one, from a fork to a join.
class SideStream {
 public:
  SideStream() {
    for (cudaEvent_t* event : {&forked_, &joined_}) check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate");
  }
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;
  ~SideStream() {
    for (cudaEvent_t event : {forked_, joined_}) cudaEventDestroy(event);
  }

  cudaStream_t stream() const { return own_.get(); }
  // What comes here from now on waits for what `stream` has so far.
  void fork(cudaStream_t stream) const {
    check(cudaEventRecord(forked_, stream), "cudaEventRecord");
    check(cudaStreamWaitEvent(own_.get(), forked_), "cudaStreamWaitEvent");
  }
  // What comes to `stream` from now on waits for what is here.
  void join(cudaStream_t stream) const {
    check(cudaEventRecord(joined_, own_.get()), "cudaEventRecord");
    check(cudaStreamWaitEvent(stream, joined_), "cudaStreamWaitEvent");
  }

 private:
  Stream own_;
  cudaEvent_t forked_ = nullptr, joined_ = nullptr;
};

// What launch(stream) launches, recorded once to be launched as a whole.
class Graph {
 public:
  template <class Launch>
  Graph(const Stream& stream, Launch&& launch) {
    check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    launch(stream.get());
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream.get(), &graph), "cudaStreamEndCapture");
    const cudaError_t result = cudaGraphInstantiate(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(result, "cudaGraphInstantiate");
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { cudaGraphExecDestroy(graph_); }

  void launch(const Stream& stream) const { check(cudaGraphLaunch(graph_, stream.get()), "cudaGraphLaunch"); }

 private:
  cudaGraphExec_t graph_ = nullptr;
};

// Bytes on the current device. Grows by reallocation (contents are lost), never shrinks; what it gets is zeroed.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(std::size_t bytes) { reserve(bytes); }
  DeviceBuffer(DeviceBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer() {
    if (data_) cudaFree(data_);
  }

  void reserve(std::size_t bytes) {
    if (bytes <= bytes_) return;
    if (data_) check(cudaFree(std::exchange(data_, nullptr)), "cudaFree");
    bytes_ = 0;
    std::size_t available = 0, all = 0;
    check(cudaMemGetInfo(&available, &all), "cudaMemGetInfo");
    if (bytes > available) fail(ErrorKind::device_failed, "CUDA: ", bytes, " bytes of device memory are needed; ", available, " of ", all, " are free");
    check(cudaMalloc(&data_, bytes), "cudaMalloc");
    check(cudaMemset(data_, 0, bytes), "cudaMemset");
    bytes_ = bytes;
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
    check(cudaMemcpy(data_, from, count * sizeof(T), cudaMemcpyHostToDevice), "cudaMemcpy to the device");
  }
  template <class T>
  void download(T* to, std::size_t count) const {
    check(cudaMemcpy(to, data_, count * sizeof(T), cudaMemcpyDeviceToHost), "cudaMemcpy from the device");
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// An array that host and device both see: copied when one asks for what the other has written.
class Mirrored {
 public:
  explicit Mirrored(std::size_t bytes) : host_(bytes), device_(bytes) {}

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
  std::size_t bytes() const { return host_.bytes() + device_.bytes(); }

 private:
  enum class Newest { both, host, device };
  mutable Buffer host_;
  mutable DeviceBuffer device_;
  mutable Newest newest_ = Newest::both;
};

}  // namespace mamba::cuda
