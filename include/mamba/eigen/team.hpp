// Other threads inside a primitive: for calls of a single tile, a decoded token of a large model or one long sequence.
#pragma once

#include <mamba/core/denormals.hpp>
#include <mamba/core/instruction_set.hpp>
#include <mamba/core/threads.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

// A primitive that does less than this many multiply-adds is over before another thread has begun.
inline constexpr long long team_work = 1 << 15;

// piece(i) for i in [0, pieces), by the core's team where it has one. What a piece is must not depend on the team, and
// each writes only what is its own: the result is the same to the bit.
template <class Core, class Piece>
void share_out(Core& core, int pieces, long long work, Piece&& piece) {
  if (core.team && work >= team_work) {
    core.team->run(pieces, [&](int i, int) {
      const FlushDenormals flush;
      piece(i);
    });
  } else {
    for (int i = 0; i < pieces; ++i) piece(i);
  }
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
