// How much work something was, on a machine that does other work, too.
#pragma once

#include <ctime>

namespace support {

// What processors have spent on this program, in seconds from some beginning on.
inline double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

}  // namespace support
