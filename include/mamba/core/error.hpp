// User errors: what was given, what was expected, thrown before anything is changed.
#pragma once

#include <mamba/core/requirements.hpp>

#include <initializer_list>
#include <stdexcept>
#include <string>

#include <mamba/core/text.hpp>

namespace mamba {

// What went wrong, as far as a program's exit code cares.
enum class ErrorKind {
  invalid_argument,  // the caller's values
  bad_file,          // an input file is missing, malformed or of another model
  cannot_write,      // an output could not be written
  diverged,          // a loss or a gradient is not finite
  device_failed,     // no GPU, not enough of its memory, or a call of its runtime that failed
  group_failed,      // another process of a group is gone, or what connects them failed
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }

 private:
  ErrorKind kind_;
};

// Throws an Error whose message is the parts, one after the other; numbers in any locale as in C's.
[[noreturn]] inline void fail(ErrorKind kind, std::initializer_list<MessagePart> parts) {
  throw Error(kind, joined(parts));
}
template <class... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  fail(kind, {MessagePart(parts)...});
}

template <class... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) fail(ErrorKind::invalid_argument, parts...);
}

}  // namespace mamba
