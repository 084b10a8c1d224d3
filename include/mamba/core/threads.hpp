// A small pool of threads. What is computed must not depend on who computes it: tasks are numbered, each writes only
// what is its own, and results are combined afterwards in the order of the numbers.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

#include <mamba/core/exclusive.hpp>
#include <mamba/core/processors.hpp>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace mamba {

namespace detail {

// How often this process has been forked from another, which had threads that it has not.
inline std::uint32_t fork_count() {
  static std::atomic<std::uint32_t> count{0};
#if defined(__unix__) || defined(__APPLE__)
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { count.fetch_add(1, std::memory_order_relaxed); });
#endif
  return count.load(std::memory_order_relaxed);
}

}  // namespace detail

// Who comes too late for a round of tasks is not waited for: on a machine that others keep busy, whoever runs does the
// work. Used by one thread at a time. A task that comes back to its own pool runs what it brings by itself: nobody else
// is free to help. After a fork() the child's pool begins with new threads; one that was at work while another thread
// forked says that it is in use. A task of several must not fork: the child would wait for the others.
class ThreadPool {
 public:
  // threads: how many work, the caller included; 0: one for each processor that this process may use. Throws
  // std::system_error when the system has not so many.
  explicit ThreadPool(int threads) {
    const int processors = available_processors();
    workers_ = threads > 0 ? threads : processors;
    looks_ = workers_ <= processors ? 4000 : 0;
    start();
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    if (forked()) leave_threads();
    else if (threads_) stop();
  }

  int workers() const { return workers_; }

  // Calls work(task, worker) for every task in [0, tasks), worker in [0, workers()); returns when all are done, and
  // throws the first exception that one of them threw. Allocates nothing. Throws Error where another thread is in it
  // with more than one task.
  template <class Work>
  void run(int tasks, Work&& work) {
    const auto call = [](void* context, int task, int worker) {
      (*static_cast<std::remove_reference_t<Work>*>(context))(task, worker);
    };
    run(tasks, call, const_cast<void*>(static_cast<const void*>(&work)));
  }

 private:
  // Which pools' tasks this thread is in, the innermost first.
  class Inside {
   public:
    Inside(const ThreadPool* pool, int number) : worker(number), pool_(pool), outer_(innermost()) {
      innermost() = this;
    }
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
    ~Inside() { innermost() = outer_; }

    static const Inside* of(const ThreadPool* pool) {
      const Inside* at = innermost();
      while (at && at->pool_ != pool) at = at->outer_;
      return at;
    }

    const int worker;

   private:
    static const Inside*& innermost() {
      thread_local const Inside* of_thread = nullptr;
      return of_thread;
    }

    const ThreadPool* pool_;
    const Inside* outer_;
  };

  // The part of run() that does not depend on Work: compiled once.
  void run(int tasks, void (*call)(void*, int, int), void* context) {
    const Inside* const inside = Inside::of(this);
    if (inside || workers_ == 1 || tasks <= 1) {
      for (int task = 0; task < tasks; ++task) call(context, task, inside ? inside->worker : 0);
      return;
    }
    const Exclusive::Use use(in_use_, "a pool of threads");
    if (forked()) leave_threads();
    if (!threads_) start();
    call_ = call;
    context_ = context;
    tasks_ = tasks;
    next_task_.store(0, std::memory_order_relaxed);
    error_ = nullptr;
    gate_.fetch_and(~closed, std::memory_order_release);
    begin_round();
    take_tasks(0);
    gate_.fetch_or(closed, std::memory_order_relaxed);
    for (std::uint32_t inside_now; (inside_now = gate_.load(std::memory_order_acquire)) != closed;)
      wait_while(gate_, inside_now);
    if (error_) std::rethrow_exception(error_);
  }

  bool forked() const { return forks_ != detail::fork_count(); }

  void start() {
    forks_ = detail::fork_count();
    threads_ = std::make_unique<std::vector<std::thread>>();
    stopping_ = false;
    round_.store(0, std::memory_order_relaxed);
    gate_.store(closed, std::memory_order_relaxed);
    try {
      for (int worker = 1; worker < workers_; ++worker) threads_->emplace_back([this, worker] { serve(worker); });
    } catch (...) {  // the system has no more: those that there are must end before the error goes on
      stop();
      throw;
    }
  }

  void stop() {
    stopping_ = true;
    begin_round();
    for (auto& thread : *threads_) thread.join();
    threads_.reset();
  }

  // Of a process before a fork: there is nobody to wait for, and nothing to end.
  void leave_threads() { [[maybe_unused]] auto* const left = threads_.release(); }

  void begin_round() {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

  void serve(int worker) {
    for (std::uint32_t seen = 0;;) {
      wait_while(round_, seen);
      seen = round_.load(std::memory_order_acquire);
      if (stopping_) return;
      // Behind a closed gate nothing is touched: the tasks may be gone.
      if (!(gate_.fetch_add(1, std::memory_order_acquire) & closed)) take_tasks(worker);
      if (gate_.fetch_sub(1, std::memory_order_release) == (closed | 1)) gate_.notify_one();
    }
  }

  // Returns when value is no longer `old`. Looks for some microseconds before it sleeps: the parts of a decoded token
  // are shorter than waking a thread takes.
  void wait_while(const std::atomic<std::uint32_t>& value, std::uint32_t old) const {
    for (int look = 0; look < looks_; ++look) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
    value.wait(old, std::memory_order_acquire);
  }

  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  void take_tasks(int worker) {
    const Inside inside(this, worker);
    for (int task; (task = next_task_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
      try {
        call_(context_, task, worker);
      } catch (...) {
        const std::lock_guard lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
        next_task_.store(tasks_, std::memory_order_relaxed);
      }
    }
  }

  int workers_ = 1, looks_ = 0;
  std::uint32_t forks_ = 0;
  std::unique_ptr<std::vector<std::thread>> threads_;
  Exclusive in_use_;
  void (*call_)(void*, int, int) = nullptr;
  void* context_ = nullptr;
  int tasks_ = 0;
  std::atomic<int> next_task_{0};
  static constexpr std::uint32_t closed = std::uint32_t{1} << 31;
  std::atomic<std::uint32_t> round_{0};
  std::atomic<std::uint32_t> gate_{closed};  // how many workers are at the tasks, and whether nobody may come any more
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::atomic<bool> stopping_{false};
};

}  // namespace mamba
