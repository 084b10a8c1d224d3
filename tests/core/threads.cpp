#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <mamba/core/threads.hpp>

#include "support/scratch.hpp"

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

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

// Who is late finds the gate closed: rounds of few tasks, one at once behind the other, of more threads than there are
// processors.
TEST_CASE("threads that come too late for a round do not meet tasks that are gone") {
  mamba::ThreadPool pool(16);
  for (int round = 0; round < 20000; ++round) {
    std::vector<int> written(static_cast<std::size_t>(2 + round % 3));  // gone when the round is over
    pool.run(static_cast<int>(written.size()),
             [&](int task, int) { written[static_cast<std::size_t>(task)] = round + task; });
    for (std::size_t task = 0; task < written.size(); ++task)
      if (written[task] != round + static_cast<int>(task)) FAIL("task " << task << " of round " << round);
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

TEST_CASE("a task that comes back to its own pool runs what it brings by itself, with its worker's number") {
  for (const int threads : {1, 2, 5}) {
    mamba::ThreadPool pool(threads);
    std::vector<std::atomic<int>> counts(40 * 7);
    std::atomic<bool> same_worker{true};
    for (int round = 0; round < 20; ++round)
      pool.run(40, [&](int task, int worker) {
        pool.run(7, [&](int inner, int inner_worker) {
          ++counts[static_cast<std::size_t>(7 * task + inner)];
          if (inner_worker != worker) same_worker = false;
        });
      });
    for (const auto& count : counts) CHECK(count == 20);
    CHECK(same_worker);
  }
}

TEST_CASE("pools inside pools: each has its own threads, and a way back to the outer one does not wait for it") {
  mamba::ThreadPool outer(3);
  std::atomic<int> done{0};
  outer.run(6, [&](int, int) {
    mamba::ThreadPool inner(2);
    inner.run(4, [&](int, int) { ++done; });
  });
  CHECK(done == 24);
}

TEST_CASE("a pool that another thread is in says so") {
  mamba::ThreadPool pool(2);
  std::atomic<bool> refused{false};
  pool.run(2, [&](int task, int) {
    if (task != 0) return;
    std::thread([&] {
      try {
        pool.run(2, [](int, int) {});
      } catch (const mamba::Error&) {
        refused = true;
      }
    }).join();
  });
  CHECK(refused);
}

#if defined(__unix__) && !defined(__SANITIZE_THREAD__)
TEST_CASE("a pool goes on after fork(), in the child too") {
  mamba::ThreadPool pool(4);
  std::atomic<int> done{0};
  pool.run(100, [&](int, int) { ++done; });
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    for (int round = 0; round < 3; ++round) pool.run(100, [&](int, int) { ++done; });
    _exit(done == 400 ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  pool.run(100, [&](int, int) { ++done; });
  CHECK(done == 200);
  // A child that ends in the usual way destroys the pool, whose threads are the parent's.
  const pid_t other = fork();
  if (other == 0) {
    alarm(20);
    {
      mamba::ThreadPool* const copy = &pool;
      copy->~ThreadPool();
    }
    _exit(0);
  }
  REQUIRE(waitpid(other, &status, 0) == other);
  CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
}
#endif

namespace {

// A control group's files under a root of the test's own.
void write_under(const std::filesystem::path& root, const std::string& path, const std::string& text) {
  std::filesystem::create_directories((root / path).parent_path());
  std::ofstream(root / path) << text;
}

}  // namespace

TEST_CASE("a container's share of the processors counts") {
  CHECK(mamba::available_processors() >= 1);
  const auto limit = [](const std::filesystem::path& root) {
    return mamba::detail::control_group_limit(root.string());
  };
  auto root = support::scratch("no-limit");
  CHECK(limit(root) == 0);
  write_under(root, "proc/self/cgroup", "0::/\n");
  write_under(root, "sys/fs/cgroup/cpu.max", "max 100000\n");
  CHECK(limit(root) == 0);
  write_under(root, "sys/fs/cgroup/cpu.max", "250000 100000\n");
  CHECK(limit(root) == 3);
  // The tightest of a group and those around it.
  write_under(root, "proc/self/cgroup", "0::/pod/box\n");
  write_under(root, "sys/fs/cgroup/pod/cpu.max", "150000 100000\n");
  write_under(root, "sys/fs/cgroup/pod/box/cpu.max", "max 100000\n");
  CHECK(limit(root) == 2);
  // Version 1.
  root = support::scratch("version-1");
  write_under(root, "proc/self/cgroup", "5:memory:/a\n4:cpu,cpuacct:/a\n");
  write_under(root, "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n");
  write_under(root, "sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
  CHECK(limit(root) == 0);
  write_under(root, "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "50000\n");
  CHECK(limit(root) == 1);
  write_under(root, "proc/self/cgroup", "no such line\n::\n4:cpu\n0::box\n");
  CHECK(limit(root) == 0);
}
