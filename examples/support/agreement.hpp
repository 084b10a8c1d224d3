// What processes that work together must do alike, though each has its own clock and its own signals.
#pragma once

#include <algorithm>

#include <mamba/parallel/group.hpp>

namespace support {

// What a process sees between two steps.
struct Seen {
  bool interrupted = false, checkpoint_is_due = false, looks_too_often = false;
};

// What all do: they stop where one is interrupted, and go by the first one's clock.
inline Seen agree(mamba::Group& group, const Seen& own) {
  const auto all = mamba::gather(group, own);
  Seen agreed = all[0];
  agreed.interrupted = std::any_of(all.begin(), all.end(), [](const Seen& seen) { return seen.interrupted; });
  return agreed;
}

}  // namespace support
