// A small pool of threads. What is computed must not depend on who computes it: tasks are numbered, each writes only
// what is its own, and results are combined afterwards in the order of the numbers.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace mamba {

class ThreadPool {
 public:
  // threads: how many work, the caller included; 0: one for each core.
  explicit ThreadPool(int threads) : workers_(threads > 0 ? threads : std::max(1, static_cast<int>(std::thread::hardware_concurrency()))) {
    for (int worker = 1; worker < workers_; ++worker) threads_.emplace_back([this, worker] { serve(worker); });
  }
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    start_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  int workers() const { return workers_; }

  // Calls work(task, worker) for every task in [0, tasks), worker in [0, workers()); returns when all are done, and
  // throws the first exception that one of them threw. Allocates nothing.
  template <class Work>
  void run(int tasks, Work&& work) {
    if (workers_ == 1 || tasks <= 1) {
      for (int task = 0; task < tasks; ++task) work(task, 0);
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      call_ = [](void* context, int task, int worker) { (*static_cast<std::remove_reference_t<Work>*>(context))(task, worker); };
      context_ = const_cast<void*>(static_cast<const void*>(&work));
      tasks_ = tasks;
      next_task_.store(0, std::memory_order_relaxed);
      busy_ = workers_ - 1;
      error_ = nullptr;
      ++round_;
    }
    start_.notify_all();
    take_tasks(0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void serve(int worker) {
    std::uint64_t seen = 0;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        start_.wait(lock, [&] { return stopping_ || round_ != seen; });
        if (stopping_) return;
        seen = round_;
      }
      take_tasks(worker);
      const std::lock_guard lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }

  void take_tasks(int worker) {
    for (int task; (task = next_task_.fetch_add(1, std::memory_order_relaxed)) < tasks_;) {
      try {
        call_(context_, task, worker);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!error_) error_ = std::current_exception();
        next_task_.store(tasks_, std::memory_order_relaxed);
      }
    }
  }

  int workers_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable start_, done_;
  void (*call_)(void*, int, int) = nullptr;
  void* context_ = nullptr;
  int tasks_ = 0, busy_ = 0;
  std::atomic<int> next_task_{0};
  std::exception_ptr error_;
  std::uint64_t round_ = 0;
  bool stopping_ = false;
};

}  // namespace mamba
