// Other threads inside a primitive: for calls of a single tile, a decoded token of a large model or one long sequence.
#pragma once

#include <mamba/core/denormals.hpp>
#include <mamba/core/instruction_set.hpp>
#include <mamba/core/threads.hpp>

namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET {

// A primitive that does less than this many multiply-adds is over before another thread has begun.
inline constexpr long long team_work = 1 << 15;

// piece(i, worker) for i in [0, pieces), by the core's team where it has one. What a piece is must not depend on the
// team, and each writes only what is its own, and scratch of its worker's: the result is the same to the bit.
template <class Core, class Piece>
void share_out_to_workers(Core& core, int pieces, long long work, Piece&& piece) {
  if (core.team && work >= team_work) {
    core.team->run(pieces, [&](int i, int worker) {
      const FlushDenormals flush;
      piece(i, worker);
    });
  } else {
    for (int i = 0; i < pieces; ++i) piece(i, 0);
  }
}
// The same of pieces that need no scratch.
template <class Core, class Piece>
void share_out(Core& core, int pieces, long long work, Piece&& piece) {
  share_out_to_workers(core, pieces, work, [&](int i, int) { piece(i); });
}

// stretch(first, last) for rows [0, rows), each of which takes so many multiply-adds.
template <class Core, class Stretch>
void share_out_rows(Core& core, int rows, long long work_of_row, Stretch&& stretch) {
  constexpr int piece = 16;
  if (!core.team || rows <= piece) return stretch(0, rows);
  share_out(core, (rows + piece - 1) / piece, rows * work_of_row,
            [&](int i) { stretch(i * piece, rows - i * piece < piece ? rows : (i + 1) * piece); });
}

// How many workers a core's pieces may have at once.
template <class Core>
int workers_of(const Core& core) {
  return core.team ? core.team->workers() : 1;
}

}  // namespace mamba::eigen::inline MAMBA_INSTRUCTION_SET
