// What a program needs of its process before it does anything: a failing write is an error that it can tell, not a
// signal that ends it.
#pragma once

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace support {

// A pipe that nobody reads any more, and a file beyond the shell's limit, are told by write(). A standard stream that
// the caller has closed stays closed, for all writing to it fails, but its number is not given to the next file that is
// opened: what is printed would end in it.
inline void prepare_process() {
#if defined(__unix__) || defined(__APPLE__)
  struct sigaction ignore{};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, nullptr);
  ::sigaction(SIGXFSZ, &ignore, nullptr);
  for (int stream = 0; stream <= 2; ++stream)
    if (::fcntl(stream, F_GETFD) < 0 && errno == EBADF) {
      [[maybe_unused]] const int held =
          ::open("/dev/null", stream == 0 ? O_WRONLY : O_RDONLY);  // gets the lowest free number: this one
    }
#endif
}

}  // namespace support
