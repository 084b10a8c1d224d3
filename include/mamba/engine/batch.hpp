// What a user hands to a model, checked, and which rows of it are read out.
#pragma once

#include <cstdint>
#include <span>

#include <mamba/core/config.hpp>
#include <mamba/core/error.hpp>

namespace mamba {

// Token ids (batch, length), sequence after sequence; `lengths` (batch), where given, says how many tokens of each
// sequence, from the left, exist.
struct Batch {
  std::span<const std::int32_t> ids;
  int batch = 0, length = 0;
  std::span<const std::int32_t> lengths;

  int length_of(int sequence) const { return lengths.empty() ? length : lengths[static_cast<std::size_t>(sequence)]; }
  const std::int32_t* tokens_of(int sequence) const {
    return ids.data() + static_cast<std::ptrdiff_t>(sequence) * length;
  }
};

// Refuses what no model of this configuration can read.
// longest: the longest sequence, 0 for any; before: what each sequence has had already, where that counts.
inline Batch checked_batch(const Config& config, int longest, std::span<const std::int32_t> ids, int batch,
                           std::span<const std::int32_t> lengths, std::span<const int> before = {}) {
  require(batch > 0, "the batch must hold at least one sequence; given ", batch);
  require(!ids.empty(), "no token ids given");
  require(ids.size() % static_cast<std::size_t>(batch) == 0, ids.size(), " token ids do not divide into ", batch,
          " sequences of one length");
  const std::size_t length = ids.size() / static_cast<std::size_t>(batch);
  require(length <= 0x3FFFFFFF && ids.size() <= 0x7FFFFFFF, "the batch of ", ids.size(),
          " tokens is too large for one call");
  require(lengths.empty() || lengths.size() == static_cast<std::size_t>(batch), lengths.size(), " lengths given for ",
          batch, " sequences");
  const Batch checked{ids, batch, static_cast<int>(length), lengths};
  for (int s = 0; s < batch; ++s) {
    const int own = checked.length_of(s);
    require(own >= 1 && own <= checked.length, "length ", own, " of sequence ", s, " is not in 1..", checked.length);
    const int so_far = before.empty() ? 0 : before[static_cast<std::size_t>(s)];
    require(own <= 0x7FFFFFFF - so_far, "sequence ", s, " has had ", so_far, " tokens; with ", own,
            " more they are beyond what is counted");
    require(longest == 0 || own <= longest - so_far, "sequence ", s, " of ", so_far + static_cast<long long>(own),
            " tokens is longer than the model's max_seq_len ", longest);
    for (int t = 0; t < own; ++t) {
      const std::int32_t token = checked.tokens_of(s)[t];
      require(token >= 0 && token < config.vocab_size, "token ", token, " at position ", t, " of sequence ", s,
              " is not in the vocabulary 0..", config.vocab_size - 1);
    }
  }
  return checked;
}

// Which rows a call reads the logits of.
enum class Readout {
  none,
  all,          // every position
  last,         // every sequence's last token
  predecessors  // every position that has a next token
};

// Of a sequence of `length` tokens: the first row that is read, and how many are.
inline int first_readout_of(int length, Readout readout) { return readout == Readout::last ? length - 1 : 0; }
inline int readouts_of(int length, Readout readout) {
  switch (readout) {
    case Readout::none:
      return 0;
    case Readout::all:
      return length;
    case Readout::last:
      return 1;
    case Readout::predecessors:
      return length - 1;
  }
  return 0;
}

}  // namespace mamba
