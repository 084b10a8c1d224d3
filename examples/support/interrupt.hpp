// Ctrl-C asks once, then insists: the first is noted, the second ends the program.
#pragma once

#include <csignal>

namespace support {

namespace detail {
inline volatile std::sig_atomic_t interrupted = 0;
}

inline void catch_interrupts() {
  const auto note = [](int signal) {
    detail::interrupted = 1;
    std::signal(signal, SIG_DFL);
  };
  std::signal(SIGINT, note);
  std::signal(SIGTERM, note);
}

inline bool interrupted() { return detail::interrupted != 0; }

}  // namespace support
