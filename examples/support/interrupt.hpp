// Ctrl-C asks once, then insists: the first is noted, the second ends the program.
#pragma once

#include <atomic>
#include <csignal>

namespace support {

namespace detail {
inline std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // a signal's handler may write it
}  // namespace detail

// From the first call on; later ones change nothing, so that a second Ctrl-C ends the program whenever it comes.
inline void catch_interrupts() {
  [[maybe_unused]] static const bool caught = [] {
    const auto note = [](int signal) {
      detail::interrupted = true;
      std::signal(signal, SIG_DFL);
    };
    std::signal(SIGINT, note);
    std::signal(SIGTERM, note);
    return true;
  }();
}

// Runs in hand write their checkpoints and end, as if the user had asked.
inline void interrupt() { detail::interrupted = true; }

inline bool interrupted() { return detail::interrupted; }

}  // namespace support
