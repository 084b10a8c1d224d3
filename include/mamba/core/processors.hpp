// How many processors this process may use: fewer than the machine has where the system pins it or a container limits
// it.
#pragma once

#include <mamba/core/requirements.hpp>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace mamba {

namespace detail {

// A small file of the kernel's; empty where it cannot be read.
inline std::string kernel_text(const std::string& path) {
  std::string text;
  if (std::FILE* const file = std::fopen(path.c_str(), "rb")) {
    char block[4096];
    for (std::size_t n; (n = std::fread(block, 1, sizeof block, file)) > 0;) text.append(block, n);
    std::fclose(file);
  }
  return text;
}

// The whole number at the front of a text, which is then behind it; -1 for none ("max" in the kernel's files).
inline long long take_number(std::string_view& text) {
  const auto first = text.find_first_not_of(" \n");
  text.remove_prefix(first == std::string_view::npos ? text.size() : first);
  long long number = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{}) return -1;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return number;
}

// Processors' worth of time in a period, rounded up; 0 for no limit.
inline int processors_of(long long quota, long long period) {
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int>((std::min)((quota + period - 1) / period, 1LL << 20));
}

// The tightest limit among a control group and those around it, 0 for none. `read(folder)` is one group's.
template <class Read>
int tightest(const std::string& mount, std::string group, Read&& read) {
  int least = 0;
  for (;;) {
    if (const int limit = read(mount + group); limit > 0) least = least == 0 ? limit : (std::min)(least, limit);
    const auto slash = group.find_last_of('/');
    if (slash == std::string::npos || group == "/") return least;
    group.erase(slash);
  }
}

// What this process's control groups grant (Linux's cgroups, version 2 and 1), 0 for no limit. root: in front of the
// kernel's paths.
inline int control_group_limit(const std::string& root = "") {
  const std::string groups = kernel_text(root + "/proc/self/cgroup");  // lines of "number:controllers:/group"
  int least = 0;
  for (std::size_t at = 0; at < groups.size();) {
    const std::size_t end = (std::min)(groups.find('\n', at), groups.size());
    const std::string line = groups.substr(at, end - at);
    at = end + 1;
    const auto first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers = ",";
    controllers.append(line, first + 1, second - first - 1).append(",");
    const std::string group = line.substr(second + 1);
    int limit = 0;
    if (controllers == ",,") {
      limit = tightest(root + "/sys/fs/cgroup", group, [](const std::string& folder) {
        const std::string text = kernel_text(folder + "/cpu.max");  // "max 100000" or "150000 100000"
        std::string_view rest = text;
        const long long quota = take_number(rest), period = take_number(rest);
        return processors_of(quota, period);
      });
    } else if (controllers.find(",cpu,") != std::string::npos) {
      limit = tightest(root + "/sys/fs/cgroup/cpu", group, [](const std::string& folder) {
        const std::string quota_text = kernel_text(folder + "/cpu.cfs_quota_us"),
                          period_text = kernel_text(folder + "/cpu.cfs_period_us");
        std::string_view quota = quota_text, period = period_text;
        return processors_of(take_number(quota), take_number(period));
      });
    }
    if (limit > 0) least = least == 0 ? limit : (std::min)(least, limit);
  }
  return least;
}

}  // namespace detail

// At least 1.
inline int available_processors() {
  int count = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) count = CPU_COUNT(&allowed);
  if (const int limit = detail::control_group_limit(); limit > 0) count = (std::min)(count, limit);
#endif
  return (std::max)(1, count);
}

}  // namespace mamba
