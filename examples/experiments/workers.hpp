// The threads of a process that do many runs, one on every place (a GPU, or the CPU) at a time.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "run_queue.hpp"
#include "support/interrupt.hpp"

namespace runs {

class Workers {
 public:
  // What became of a run: its outcome, an error, or neither where it was interrupted.
  struct News {
    std::size_t job;
    std::optional<Outcome> outcome{};
    std::exception_ptr error{};
  };

  // run(job, place) -> std::optional<Outcome>
  template <class Run>
  Workers(const std::vector<int>& places, Run&& run) : run_(std::forward<Run>(run)) {
    for (const int place : places) threads_.emplace_back([this, place] { work(place); });
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;
  // Waits for the runs in hand; where an error ends the program they write their checkpoints.
  ~Workers() {
    if (std::uncaught_exceptions() > exceptions_) support::interrupt();
    {
      const std::lock_guard hold(lock_);
      ended_ = true;
    }
    given_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  std::size_t count() const { return threads_.size(); }
  // The next one who is idle takes it.
  void give(std::size_t job) {
    {
      const std::lock_guard hold(lock_);
      jobs_.push_back(job);
    }
    given_.notify_one();
  }
  // What is new; nothing where there is nothing for so long.
  std::optional<News> next(std::chrono::milliseconds patience) {
    std::unique_lock hold(lock_);
    if (!told_.wait_for(hold, patience, [&] { return !news_.empty(); })) return std::nullopt;
    News news = std::move(news_.front());
    news_.pop_front();
    return news;
  }

 private:
  void work(int place) {
    std::unique_lock hold(lock_);
    while (true) {
      given_.wait(hold, [&] { return ended_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      News news{jobs_.front()};
      jobs_.pop_front();
      hold.unlock();
      try {
        news.outcome = run_(news.job, place);
      } catch (...) {
        news.error = std::current_exception();
      }
      hold.lock();
      news_.push_back(std::move(news));
      told_.notify_one();
    }
  }

  std::function<std::optional<Outcome>(std::size_t job, int place)> run_;
  std::mutex lock_;
  std::condition_variable given_, told_;
  std::deque<std::size_t> jobs_;
  std::deque<News> news_;
  bool ended_ = false;
  const int exceptions_ = std::uncaught_exceptions();
  std::vector<std::thread> threads_;
};

}  // namespace runs
