// Signals that end a run: the work done is kept. Ctrl-C asks once, then insists.
#pragma once

#include <atomic>
#include <csignal>

#if defined(__unix__) || defined(__APPLE__)
#include <signal.h>
#endif

namespace support {

namespace detail {
inline std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);  // a signal's handler may write it

extern "C" inline void note_interrupt(int) { interrupted = true; }
}  // namespace detail

// From the first call on; later ones change nothing. The first Ctrl-C (SIGINT) or SIGTERM is noted, the second ends the
// program, whenever it comes. A terminal that closes (SIGHUP) is noted each time, for shell and system both tell of it;
// who started the program to outlive its terminal (nohup) has it ignored, and that stays.
inline void catch_interrupts() {
  [[maybe_unused]] static const bool caught = [] {
#if defined(__unix__) || defined(__APPLE__)
    struct sigaction note{}, before{};
    note.sa_handler = detail::note_interrupt;
    ::sigemptyset(&note.sa_mask);
    note.sa_flags = SA_RESTART;
    if (::sigaction(SIGHUP, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) ::sigaction(SIGHUP, &note, nullptr);
    note.sa_flags |= static_cast<int>(SA_RESETHAND);
    for (const int signal : {SIGINT, SIGTERM}) ::sigaction(signal, &note, nullptr);
#else
    const auto once = [](int signal) {
      std::signal(signal, SIG_DFL);
      detail::interrupted = true;
    };
    std::signal(SIGINT, once);
    std::signal(SIGTERM, once);
#endif
    return true;
  }();
}

// Runs in hand write their checkpoints and end, as if the user had asked.
inline void interrupt() { detail::interrupted = true; }

inline bool interrupted() { return detail::interrupted; }

}  // namespace support
