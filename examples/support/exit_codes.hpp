// What the programs' exit codes mean, the same for all of them.
#pragma once

#include <cstdio>
#include <exception>
#include <filesystem>
#include <iostream>
#include <new>

#include <mamba/core/error.hpp>

#include "process.hpp"

namespace support {

enum ExitCode {
  done = 0,
  other = 1,
  usage = 2,
  bad_file = 3,
  diverged = 4,
  cannot_write = 5,
  device_failed = 6,
  group_failed = 7,
  interrupted_run = 130
};

inline constexpr const char* exit_code_help =
    "Exit codes: 0 done, 1 no memory or no threads, 2 usage, 3 bad input file, 4 diverged, 5 output cannot be written, "
    "6 the GPU failed, 7 a process of several is gone, 130 interrupted.";

inline int exit_code(const mamba::Error& error) {
  switch (error.kind()) {
    case mamba::ErrorKind::invalid_argument:
      return usage;
    case mamba::ErrorKind::bad_file:
      return bad_file;
    case mamba::ErrorKind::diverged:
      return diverged;
    case mamba::ErrorKind::cannot_write:
      return cannot_write;
    case mamba::ErrorKind::device_failed:
      return device_failed;
    case mamba::ErrorKind::group_failed:
      return group_failed;
  }
  return usage;
}

// What f returns, or the code of the error that it threw, told as the program's. 0 only once all that was printed is
// out.
template <class F>
int guarded(const char* program, F&& f) {
  prepare_process();
  try {
    const int code = f();
    const bool printed = std::cout.flush() && std::fflush(stdout) == 0 && !std::ferror(stdout);
    if (code == done && !printed) mamba::fail(mamba::ErrorKind::cannot_write, "standard output cannot be written");
    return code;
  } catch (const mamba::Error& error) {
    std::fprintf(stderr, "%s: %s\n", program, error.what());
    return exit_code(error);
  } catch (const std::filesystem::filesystem_error& error) {
    std::fprintf(stderr, "%s: %s\n", program, error.what());
    return cannot_write;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: not enough memory\n", program);
    return other;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", program, error.what());
    return other;
  }
}

}  // namespace support
