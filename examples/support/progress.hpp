// Progress on stderr: one line that is redrawn on a terminal, now and then a plain line elsewhere.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>

#include <mamba/core/text.hpp>

#include "numbers.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace support {

inline double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline std::string duration_text(double seconds) {
  const long s = static_cast<long>((seconds > 0 ? std::min(seconds, 1e9) : 0) + 0.5);
  char text[64];
  if (s >= 3600) std::snprintf(text, sizeof text, "%ldh%02ldm", s / 3600, s / 60 % 60);
  else if (s >= 60) std::snprintf(text, sizeof text, "%ldm%02lds", s / 60, s % 60);
  else std::snprintf(text, sizeof text, "%lds", s);
  return text;
}

class Progress {
 public:
  // done: how much of `total` was finished before this process began.
  Progress(double total, double done) : total_(total), first_(done), start_(seconds_now()), shown_(start_ - 1) {
#if defined(__unix__) || defined(__APPLE__)
    terminal_ = ::isatty(::fileno(stderr)) != 0;
#endif
  }
  ~Progress() { finish(); }

  // details: what stands between the bar and the time left.
  void show(double done, const std::string& details) {
    const double now = seconds_now();
    if (now - shown_ < (terminal_ ? 0.1 : 10)) return;
    shown_ = now;
    const double share = done / total_, worked = done - first_;
    const std::string left = worked > 0 ? duration_text((now - start_) / worked * (total_ - done)) + " left" : "";
    const std::string percent = at_right(mamba::fixed_text(100 * share, 0), 3);
    if (terminal_) {
      constexpr int width = 24;
      const int filled = std::clamp(static_cast<int>(share * width), 0, width);
      std::fprintf(stderr, "\r\033[K[%s%s] %s %%  %s  %s", std::string(static_cast<std::size_t>(filled), '=').c_str(),
                   std::string(static_cast<std::size_t>(width - filled), ' ').c_str(), percent.c_str(), details.c_str(),
                   left.c_str());
      open_line_ = true;
    } else {
      std::fprintf(stderr, "%s %%  %s  %s\n", percent.c_str(), details.c_str(), left.c_str());
    }
    std::fflush(stderr);
  }

  // Leaves the line as it stands and begins a new one.
  void finish() {
    if (open_line_) std::fputc('\n', stderr);
    open_line_ = false;
  }

 private:
  double total_, first_, start_, shown_;
  bool terminal_ = false, open_line_ = false;
};

}  // namespace support
