// The order in which a block goes through a scan: a chunk of time by a slab of channels after the other.
#pragma once

#include <mamba/core/views.hpp>

namespace mamba::cuda::detail {

// Where a block is: rows [first, first + rows) of sequence s, channels from `channel` on.
template <int E, int Chunk, int Slab, bool backward>
struct ScanPiece {
  Sequences sequences;
  int s, begin, end, first, channel, kept;  // kept: states between chunks of the sequences before

  __device__ explicit ScanPiece(Sequences sequences) : sequences(sequences), s(0), channel(0), kept(0) { enter(); }
  __device__ bool exists() const { return s < sequences.count; }
  __device__ int rows() const { return end - first < Chunk ? end - first : Chunk; }
  __device__ bool is_first() const { return first == begin; }
  __device__ bool is_last() const { return first + Chunk >= end; }
  __device__ bool ends_slabs() const { return channel + Slab >= E; }
  // The number of the state kept behind this chunk; before it lies the one with the number before.
  __device__ int boundary() const { return kept + (first - begin) / Chunk; }

  __device__ void next() {
    channel += Slab;
    if (channel < E) return;
    channel = 0;
    if (backward ? first > begin : first + Chunk < end) {
      first += backward ? -Chunk : Chunk;
      return;
    }
    kept += (end - begin - 1) / Chunk;
    ++s;
    if (exists()) enter();
  }

 private:
  __device__ void enter() {
    begin = sequences.begin(s), end = sequences.end(s);
    first = backward ? begin + (end - begin - 1) / Chunk * Chunk : begin;
  }
};

}  // namespace mamba::cuda::detail
