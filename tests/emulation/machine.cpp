#include "machine.hpp"

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

// A block's dynamic shared memory, by the names that the library's namespaces give it.
namespace mamba::cuda {
alignas(128) thread_local std::byte shared[emulation::most_shared_bytes];
namespace detail {
alignas(128) thread_local std::byte shared[emulation::most_shared_bytes];
}
}  // namespace mamba::cuda

thread_local emulation::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

namespace {

constexpr std::size_t stack_bytes = std::size_t{256} << 10;
constexpr int most_threads = 1024;

// A thread of a block: a stack of its own, on which it goes from one call to the next.
struct Fiber {
  std::jmp_buf at;
  void* stack = nullptr;
};

// A thread's copies that are under way.
class Copies {
 public:
  void add(void* to, const void* from, int bytes, bool exists) {
    all_.push_back({to, exists ? from : nullptr, static_cast<std::size_t>(bytes), group_});
    std::memset(to, 0xFF, static_cast<std::size_t>(bytes));
  }
  void end_group() { ++group_; }
  void make(int pending) {
    std::erase_if(all_, [&](const Copy& copy) {
      if (copy.group >= group_ - pending) return false;
      if (copy.from) std::memcpy(copy.to, copy.from, copy.bytes);
      else std::memset(copy.to, 0, copy.bytes);
      return true;
    });
  }
  void clear() { all_.clear(), group_ = 0; }

 private:
  struct Copy {
    void* to;
    const void* from;  // null: zeros
    std::size_t bytes;
    int group;
  };
  std::vector<Copy> all_;
  int group_ = 0;
};

struct Warp {
  alignas(16) std::byte values[2][warp_size][exchanged_bytes];
  Site site{};  // where those stand that wait
  int turn = 0, arrived = 0, alive = 0;
  std::vector<int> waiting;
};

class Machine {
 public:
  ~Machine() {
    for (const auto& fiber : fibers_)
      if (fiber->stack) ::munmap(fiber->stack, stack_bytes);
  }

  void run(const char* name, unsigned blocks, unsigned threads, std::size_t shared_bytes,
           const std::function<void()>& call) {
    if (threads == 0 || threads > most_threads || blocks == 0 || shared_bytes > most_shared_bytes) {
      std::fprintf(stderr, "%s: %u blocks of %u threads with %zu bytes cannot be launched\n", name, blocks, threads,
                   shared_bytes);
      std::abort();
    }
    name_ = name, call_ = &call, threads_ = static_cast<int>(threads);
    while (static_cast<int>(fibers_.size()) < threads_) fibers_.push_back(std::make_unique<Fiber>());
    copies_.resize((std::max)(copies_.size(), static_cast<std::size_t>(threads)));
    blockDim.x = threads, gridDim.x = blocks;
    for (unsigned i = 0; i < blocks; ++i) {
      blockIdx.x = last_first_ ? blocks - 1 - i : i;
      fill_shared(shared_bytes);
      for (Copies& copies : copies_) copies.clear();
      run_block();
      check_shared(shared_bytes);
      backwards_ = !backwards_;  // what relies on an order that no barrier makes sees both
    }
    last_first_ = !last_first_;  // and on one of blocks
  }

  void synchronise_block() {
    if (++arrived_ == alive_) return release_block();
    waiting_.push_back(current_);
    leave();
  }
  void synchronise_warp() {
    Warp& warp = own_warp();
    if (++warp.arrived == warp.alive) return release(warp);
    warp.waiting.push_back(current_);
    leave();
  }
  const std::byte* exchanged(const void* own, std::size_t bytes, Site site) {
    Warp& warp = own_warp();
    if (warp.arrived == 0) warp.site = site;
    if (warp.site.line != site.line || std::strcmp(warp.site.file, site.file) != 0) {
      std::fprintf(stderr, "%s: thread %d exchanges at %s:%d what others of its warp do at %s:%d\n", name_, current_,
                   site.file, site.line, warp.site.file, warp.site.line);
      std::abort();
    }
    auto& values = warp.values[warp.turn];
    std::memcpy(values[current_ % warp_size], own, bytes);
    synchronise_warp();
    return values[0];
  }
  void copy_later(void* to, const void* from, int bytes, bool exists) {
    for (const auto at : {reinterpret_cast<std::uintptr_t>(to), reinterpret_cast<std::uintptr_t>(from)})
      if (at % static_cast<unsigned>(bytes) != 0) {
        std::fprintf(stderr, "%s: a copy of %d bytes is not aligned\n", name_, bytes);
        std::abort();
      }
    own_copies().add(to, from, bytes, exists);
  }
  void end_copies() { own_copies().end_group(); }
  void make_copies(int pending) { own_copies().make(pending); }
  bool any_of_block(bool own) {
    any_so_far_ = any_so_far_ || own;
    synchronise_block();
    return any_;
  }

 private:
  Copies& own_copies() { return copies_[static_cast<std::size_t>(current_)]; }
  Warp& own_warp() { return warps_[static_cast<std::size_t>(current_ / warp_size)]; }

  void release(Warp& warp) {
    warp.arrived = 0, warp.turn ^= 1;
    ready_.insert(ready_.end(), warp.waiting.begin(), warp.waiting.end());
    warp.waiting.clear();
  }
  void release_block() {
    arrived_ = 0, any_ = std::exchange(any_so_far_, false);
    if (backwards_) ready_.insert(ready_.end(), waiting_.rbegin(), waiting_.rend());
    else ready_.insert(ready_.end(), waiting_.begin(), waiting_.end());
    waiting_.clear();
  }

  void run_block() {
    alive_ = threads_, arrived_ = 0;
    warps_.resize(static_cast<std::size_t>((threads_ + warp_size - 1) / warp_size));
    for (std::size_t w = 0; w < warps_.size(); ++w)
      warps_[w].alive = std::min(warp_size, threads_ - static_cast<int>(w) * warp_size), warps_[w].arrived = 0;
    for (int i = 0; i < threads_; ++i) ready_.push_back(backwards_ ? threads_ - 1 - i : i);
    while (!ready_.empty()) {
      current_ = ready_.front();
      ready_.pop_front();
      threadIdx.x = static_cast<unsigned>(current_);
      enter(*fibers_[static_cast<std::size_t>(current_)]);
    }
    if (alive_ > 0) {
      std::size_t in_warps = 0;
      for (const Warp& warp : warps_) in_warps += warp.waiting.size();
      std::fprintf(stderr, "%s: in block %u %zu threads wait for the block, %zu for their warp, the others are done\n",
                   name_, blockIdx.x, waiting_.size(), in_warps);
      std::abort();
    }
  }

  // The scheduler's way to a fiber and back.
  void enter(Fiber& fiber) {
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.stack) _longjmp(fiber.at, 1);
    fiber.stack =
        ::mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fiber.stack == MAP_FAILED) std::abort();
    ucontext_t context;
    ::getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack, context.uc_stack.ss_size = stack_bytes, context.uc_link = nullptr;
    ::makecontext(&context, &Machine::live, 0);
    ::setcontext(&context);
  }
  void leave() {
    Fiber& fiber = *fibers_[static_cast<std::size_t>(current_)];
    if (_setjmp(fiber.at) == 0) _longjmp(scheduler_, 1);
  }
  static void live();
  void call() {
    (*call_)();
    // Who is done is waited for no longer.
    Warp& warp = own_warp();
    --warp.alive, --alive_;
    if (warp.alive > 0 && warp.arrived == warp.alive) release(warp);
    if (alive_ > 0 && arrived_ == alive_) release_block();
  }

  // Numbers that are none, and behind them a mark.
  static constexpr std::size_t mark_bytes = 1024;
  template <class F>
  static void each_memory(F&& f) {
    f(mamba::cuda::shared), f(mamba::cuda::detail::shared);
  }
  static void fill_shared(std::size_t bytes) {
    each_memory([&](std::byte* shared) {
      std::memset(shared, 0xFF, bytes);
      std::memset(shared + bytes, 0xA5, std::min(mark_bytes, most_shared_bytes - bytes));
    });
  }
  void check_shared(std::size_t bytes) {
    each_memory([&](const std::byte* shared) {
      for (std::size_t i = bytes; i < std::min(bytes + mark_bytes, most_shared_bytes); ++i)
        if (shared[i] != std::byte{0xA5}) {
          std::fprintf(stderr, "%s: byte %zu of %zu bytes of shared memory was written\n", name_, i, bytes);
          std::abort();
        }
    });
  }

  const char* name_ = "";
  const std::function<void()>* call_ = nullptr;
  int threads_ = 0, current_ = 0, alive_ = 0, arrived_ = 0;
  bool any_so_far_ = false, any_ = false, backwards_ = false, last_first_ = false;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Copies> copies_;
  std::vector<Warp> warps_;
  std::vector<int> waiting_;
  std::deque<int> ready_;
  std::jmp_buf scheduler_;
};

thread_local Machine machine;

void Machine::live() {
  for (;;) {
    machine.call();
    machine.leave();
  }
}

}  // namespace

void synchronise_block() { machine.synchronise_block(); }
void synchronise_warp() { machine.synchronise_warp(); }
void copy_later(void* to, const void* from, int bytes, bool exists) { machine.copy_later(to, from, bytes, exists); }
void end_copies() { machine.end_copies(); }
void make_copies(int pending) { machine.make_copies(pending); }
bool any_of_block(bool own) { return machine.any_of_block(own); }
const std::byte* exchanged(const void* own, std::size_t bytes, Site site) {
  return machine.exchanged(own, bytes, site);
}
void run(const char* name, unsigned blocks, unsigned threads, std::size_t shared_bytes,
         const std::function<void()>& call) {
  machine.run(name, blocks, threads, shared_bytes, call);
}

}  // namespace emulation
