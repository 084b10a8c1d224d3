// Counts what the global operator new of a program hands out; count_allocations.cpp replaces it.
#pragma once

#include <atomic>

namespace support {

extern std::atomic<long> allocations;

}  // namespace support
