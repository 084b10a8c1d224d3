// Ctrl-C asks once, then insists: the first is noted, the second ends the program.
#pragma once

#include <atomic>
#include <csignal>

namespace support {

namespace detail {
inline std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // a signal's handler may write it
}  // namespace detail

inline void catch_interrupts() {
  const auto note = [](int signal) {
    detail::interrupted = true;
    std::signal(signal, SIG_DFL);
  };
  std::signal(SIGINT, note);
  std::signal(SIGTERM, note);
}

inline bool interrupted() { return detail::interrupted; }

}  // namespace support
