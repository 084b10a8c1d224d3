// A machine of the tests' own that runs the library's kernels where there is no GPU: a block's threads take turns on
// one thread of the processor, from one barrier to the next. What it shows is whether kernels are right, not how fast
// they are: barriers that not all threads reach, shared memory that is read before it is written, or written behind its
// end, end the program with a message.
//
// The CUDA headers' place is taken by cuda_runtime.h and cublas_v2.h beside this one, that of the device's instructions
// by mamba/cuda/block/instructions.hpp, that of what the runtime knows kernels by, by
// mamba/cuda/runtime/function_of.hpp.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>

namespace emulation {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

}  // namespace emulation

// Where the thread is that has its turn.
extern thread_local emulation::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

inline constexpr int warp_size = 32;
inline constexpr std::size_t most_shared_bytes = std::size_t{227} << 10, exchanged_bytes = 32;

void synchronise_block();
void synchronise_warp();
bool any_of_block(bool own);
// Copies that end when they are waited for; until then the place holds numbers that are none. The copies of a thread
// since the last end_copies() are a group, and make_copies() leaves the last `pending` groups. Ends the program where a
// place is no multiple of the bytes.
void copy_later(void* to, const void* from, int bytes, bool exists);
void end_copies();
void make_copies(int pending);
// Where in the sources a call stands.
struct Site {
  const char* file;
  int line;
};
// What each lane of the warp gives here, (warp_size, exchanged_bytes), until the lane's next call. Ends the program
// where lanes meet that came from different places: what they exchange is not what either means.
const std::byte* exchanged(const void* own, std::size_t bytes, Site site);

inline unsigned lane() { return threadIdx.x % warp_size; }

template <class T>
struct OfLanes {
  const std::byte* data;
  const T& operator[](unsigned lane) const { return *reinterpret_cast<const T*>(data + lane * exchanged_bytes); }
};
template <class T>
OfLanes<T> exchange(const T& own, int line = __builtin_LINE(), const char* file = __builtin_FILE()) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= exchanged_bytes);
  return {exchanged(&own, sizeof own, {file, line})};
}

// call() by so many threads of so many blocks, one block after the other.
void run(const char* name, unsigned blocks, unsigned threads, std::size_t shared_bytes,
         const std::function<void()>& call);

// A kernel as the runtime knows it.
class Kernel {
 public:
  explicit Kernel(const char* name) : name_(name) {}
  virtual ~Kernel() = default;
  const char* name() const { return name_; }
  // A call of it with copies of the arguments.
  virtual std::function<void()> bound(void** arguments) const = 0;

 private:
  const char* name_;
};

template <class... Parameters>
class KernelOf : public Kernel {
 public:
  KernelOf(void (*function)(Parameters...), const char* name) : Kernel(name), function_(function) {}
  std::function<void()> bound(void** arguments) const override {
    return bound(arguments, std::index_sequence_for<Parameters...>());
  }

 private:
  template <std::size_t... I>
  std::function<void()> bound([[maybe_unused]] void** arguments, std::index_sequence<I...>) const {
    return [function = function_, copies = std::tuple<Parameters...>(*static_cast<Parameters*>(arguments[I])...)] {
      std::apply(function, copies);
    };
  }
  void (*function_)(Parameters...);
};

// The same one each time.
template <class... Parameters>
const Kernel* kernel_of(void (*function)(Parameters...)) {
  static std::mutex mutex;
  static std::map<void (*)(Parameters...), KernelOf<Parameters...>> known;
  const std::lock_guard lock(mutex);
  return &known.try_emplace(function, function, __PRETTY_FUNCTION__).first->second;
}

}  // namespace emulation
