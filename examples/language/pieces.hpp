// Which pieces of the training text a step reads: a function of seed and step, whatever was read before.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/random.hpp>

namespace language {

// A piece has context + 1 tokens: each but the last has a next one to predict.
//   shuffled   An epoch cuts the text, from an offset of its own, into pieces that follow one another, and takes them
//              in an order of its own.
//   carried    A batch is so many readers, far apart in the text, which is a ring to them; each goes on where it was
//              in the step before, so that a model's states may be carried along. An epoch, in which they have together
//              read the text once, begins at an offset of its own, and with new states.
class Pieces {
 public:
  // The tokens must outlive it. Throws Error(invalid_argument) where the text is too short.
  Pieces(std::span<const std::int32_t> tokens, int batch, int context, std::uint64_t seed, bool carried)
      : tokens_(tokens),
        batch_(static_cast<std::size_t>(batch)),
        context_(static_cast<std::size_t>(context)),
        seed_(seed),
        carried_(carried) {
    mamba::require(tokens.size() > context_, "the text has ", tokens.size(), " tokens to learn from; a context of ",
                   context, " takes one more than that at least");
    mamba::require(!carried || tokens.size() / batch_ > context_, "the text has ", tokens.size(),
                   " tokens to learn from; ", batch, " readers with a context of ", context,
                   " take that many and one each");
    offsets_ = std::min(context_ - 1, tokens.size() - 1 - context_) + 1;
    per_epoch_ = carried ? tokens.size() / batch_ / context_ : (tokens.size() - offsets_) / context_;
  }

  // Whether the states that were carried here end, and the step begins with new ones.
  bool begins(long step) const { return carried_ && static_cast<std::size_t>(step) % per_epoch_ == 0; }

  // The ids of a step, (batch, context + 1).
  void draw(long step, std::vector<std::int32_t>& ids) const {
    ids.clear();
    const auto number = static_cast<std::size_t>(step);
    for (std::size_t i = 0; i < batch_; ++i)
      if (carried_) append_carried(number, i, ids);
      else append_shuffled(number * batch_ + i, ids);
  }

 private:
  // A number below `bound` that is an epoch's own.
  std::size_t drawn(std::size_t bound, std::size_t epoch) const {
    return static_cast<std::size_t>(
        mamba::Permutation(bound, seed_, 0x8000'0000U | static_cast<std::uint32_t>(epoch))(0));
  }

  void append_shuffled(std::size_t piece, std::vector<std::int32_t>& ids) const {
    const std::size_t epoch = piece / per_epoch_;
    const mamba::Permutation order(per_epoch_, seed_, static_cast<std::uint32_t>(epoch) & 0x7FFF'FFFFU);
    const std::size_t first = drawn(offsets_, epoch) + static_cast<std::size_t>(order(piece % per_epoch_)) * context_;
    const auto from = tokens_.begin() + static_cast<std::ptrdiff_t>(first);
    ids.insert(ids.end(), from, from + static_cast<std::ptrdiff_t>(context_ + 1));
  }

  void append_carried(std::size_t step, std::size_t reader, std::vector<std::int32_t>& ids) const {
    const std::size_t first =
        drawn(tokens_.size(), step / per_epoch_) + reader * (tokens_.size() / batch_) + step % per_epoch_ * context_;
    for (std::size_t t = 0; t <= context_; ++t) ids.push_back(tokens_[(first + t) % tokens_.size()]);
  }

  std::span<const std::int32_t> tokens_;
  std::size_t batch_, context_;
  std::uint64_t seed_;
  bool carried_;
  std::size_t offsets_ = 1, per_epoch_ = 1;
};

}  // namespace language
