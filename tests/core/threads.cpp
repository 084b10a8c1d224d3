#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <stdexcept>
#include <vector>

#include <mamba/core/threads.hpp>

TEST_CASE("a pool runs every task once, again and again") {
  for (const int threads : {1, 2, 7}) {
    mamba::ThreadPool pool(threads);
    CHECK(pool.workers() == threads);
    for (const int tasks : {0, 1, 3, 100}) {
      std::vector<std::atomic<int>> counts(static_cast<std::size_t>(tasks));
      std::atomic<bool> worker_in_range{true};
      for (int round = 0; round < 50; ++round)
        pool.run(tasks, [&](int task, int worker) {
          ++counts[static_cast<std::size_t>(task)];
          if (worker < 0 || worker >= threads) worker_in_range = false;
        });
      for (const auto& count : counts) CHECK(count == 50);
      CHECK(worker_in_range);
    }
  }
}

TEST_CASE("a task's exception reaches the caller, and the pool goes on") {
  mamba::ThreadPool pool(3);
  CHECK_THROWS_AS(pool.run(20,
                           [](int task, int) {
                             if (task == 5) throw std::runtime_error("five");
                           }),
                  std::runtime_error);
  std::atomic<int> done{0};
  pool.run(20, [&](int, int) { ++done; });
  CHECK(done == 20);
}
