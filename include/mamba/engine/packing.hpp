// A batch as the network reads it: lists of ints over which tiles are views. Where a row lies and which rows are read
// out is decided here, for every engine.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include <mamba/core/instruction_set.hpp>
#include <mamba/core/views.hpp>
#include <mamba/engine/batch.hpp>
#include <mamba/network/tile.hpp>

namespace mamba {

inline namespace MAMBA_INSTRUCTION_SET {

// Tiles one behind the other. The lists keep their memory: packing as much again allocates nothing.
class PackedTiles {
 public:
  void clear() {
    for (auto* list : {&firsts_, &tokens_, &times_, &readouts_}) list->clear();
  }
  // Memory for one tile.
  void reserve(std::size_t sequences, std::size_t tokens) {
    firsts_.reserve(sequences + 1);
    for (auto* list : {&tokens_, &times_, &readouts_}) list->reserve(tokens);
  }

  // Appends the batch's sequences first .. end - 1 as a tile, before which the call has so many rows that are read out.
  network::TileRange append(const Batch& batch, Readout readout, int first, int end, int first_readout) {
    network::TileRange range{static_cast<int>(firsts_.size()),
                             end - first,
                             static_cast<int>(tokens_.size()),
                             static_cast<int>(readouts_.size()),
                             0,
                             first_readout,
                             first,
                             0};
    int row = 0;
    for (int s = first; s < end; ++s) {
      const int length = batch.length_of(s), readouts = readouts_of(length, readout),
                from = first_readout_of(length, readout);
      firsts_.push_back(row);
      tokens_.insert(tokens_.end(), batch.tokens_of(s), batch.tokens_of(s) + length);
      for (int t = 0; t < length; ++t) times_.push_back(t);
      for (int i = 0; i < readouts; ++i) readouts_.push_back(row + from + i);
      row += length;
      range.readouts += readouts;
    }
    firsts_.push_back(row);
    return range;
  }

  // Views of the host's lists, until the next append.
  Sequences sequences(const network::TileRange& range) const { return {firsts_.data() + range.first, range.sequences}; }
  network::Tile tile(const network::TileRange& range) const {
    return range.tile(firsts_.data(), tokens_.data(), times_.data(), readouts_.data());
  }

  // The lists in the order of TileRange::tile's arguments.
  std::array<std::span<const int>, 4> lists() const { return {firsts_, tokens_, times_, readouts_}; }
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const auto* list : {&firsts_, &tokens_, &times_, &readouts_}) sum += list->capacity() * sizeof(int);
    return sum;
  }

 private:
  std::vector<int> firsts_, tokens_, times_, readouts_;
};

// Where `count` sequences of one length begin, and their end: for who asks how much memory they take. `firsts` holds
// the numbers.
inline Sequences equal_sequences(std::vector<int>& firsts, int count, int length) {
  firsts.clear();
  for (int s = 0; s <= count; ++s) firsts.push_back(s * length);
  return {firsts.data(), count};
}

// rows <- for each row of the batch's sequences first .. end - 1 its index in the batch, sequence * length + time.
inline void batch_rows(std::vector<int>& rows, const Batch& batch, int first, int end) {
  rows.clear();
  for (int s = first; s < end; ++s)
    for (int t = 0; t < batch.length_of(s); ++t) rows.push_back(s * batch.length + t);
}

}  // namespace MAMBA_INSTRUCTION_SET

}  // namespace mamba
