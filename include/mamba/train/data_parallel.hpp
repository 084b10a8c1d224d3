// Steps of a training whose batches are cut into shards, which the processes of a group share out (data parallel
// training; what the optimiser keeps and does is shared out, too: Rajbhandari et al. 2020, ZeRO, stage 1).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/engine/engine.hpp>
#include <mamba/parallel/group.hpp>
#include <mamba/parallel/sum_tree.hpp>
#include <mamba/train/optimizer.hpp>

namespace mamba {

// Of `count` things in a row, cut into `shards` stretches: where number `shard` begins.
constexpr std::int64_t first_of_shard(std::int64_t count, int shards, int shard) { return count * shard / shards; }

// Throws Error(invalid_argument) on a number of shards that no batch is cut into.
inline void check_shards(int shards) {
  constexpr int most = 65536;
  require(shards >= 1 && shards <= most, "a batch is cut into 1 to ", most, " shards; given ", shards);
}

// Every process has the whole model, and calls the same functions of its own object at the same time. Each computes the
// gradients of its shards, one after the other. They are added up over all processes in the order of a tree
// (parallel/sum_tree.hpp): each process adds up one stretch of the parameters, keeps the optimiser's means for it,
// updates it and tells the others. So a result depends on how many shards there are and not on how many processes; an
// error that one of them meets is thrown by all. One process and one shard do what a training without this does.
template <class ModelType>
class DataParallel {
  using Scalar = typename ModelType::Scalar;
  using Arena = typename AdamW<ModelType>::Arenas::Arena;
  static constexpr bool shares = SharesTraining<Engine<typename ModelType::Architecture>>;

 public:
  // Holds references; the optimiser of its calls is the model's. Throws Error(invalid_argument) unless the processes
  // divide the shards, and for more than one of either where the model runs on a GPU.
  DataParallel(ModelType& model, Group& group, int shards) : model_(model), group_(group), shards_(shards) {
    check_shards(shards);
    require(shards % group.size() == 0, group.size(), " processes do not divide ", shards,
            " shards: each computes as many of them");
    if constexpr (shares) {
      share_out();
    } else {
      require(shards == 1, "shards, and processes that train together, are the CPU's; this model runs on a GPU");
    }
  }

  Group& group() const { return group_; }
  int shards() const { return shards_; }
  // Whether batches are cut at all.
  bool cuts() const { return shards_ > 1; }

  // A batch's loss and its gradients' norm, before they are scaled by min(1, max_norm / (norm + 1e-6)): run(shard) sets
  // the model's gradients to those of a shard's share of the loss, which it returns. Of the gradients a process has its
  // own stretch, until gather_gradients(). Where loss or norm is not finite nothing is scaled.
  template <class Run>
  std::tuple<double, double> clipped_gradients(double max_norm, Run&& run) {
    if constexpr (shares)
      if (cuts()) return clipped_gradients_of_shards(max_norm, run);
    const double loss = run(0);
    return {loss, clip_grad_norm(model_, max_norm)};
  }
  void gather_gradients() {
    if constexpr (shares)
      if (cuts()) complete(model_.engine().gradients());
  }

  // Updates the parameters by the gradients.
  void update(AdamW<ModelType>& optimizer) {
    if constexpr (shares) {
      if (cuts()) {
        optimizer.step(first_piece(), last_piece());
        const auto in_use = model_.use();
        complete(model_.engine().mutable_parameters());
        model_.engine().parameters_changed();
        return;
      }
    }
    optimizer.step();
  }

  // Gives back what the optimiser's means hold beside the own stretch, after they were loaded whole.
  void keep_own_means(AdamW<ModelType>& optimizer) {
    if (group_.size() == 1) return;
    const std::size_t first = elements_[own()], count = elements_[own() + 1] - first;
    for (Arena* means : {&optimizer.mean(), &optimizer.square()}) {
      Arena fresh = model_.engine().make_arena();
      std::copy_n(std::as_const(*means).template as<Scalar>() + first, count, fresh.template as<Scalar>() + first);
      *means = std::move(fresh);
    }
  }

  // f(mean, square) in the first process alone: the arenas of the optimiser's means, of which each process has a
  // stretch, whole for as long as the call lasts.
  template <class F>
  void with_whole_means(const AdamW<ModelType>& optimizer, F&& f) {
    std::optional<Arena> mean, square;
    if (group_.size() > 1) {
      in_first(group_, [&] { mean.emplace(optimizer.mean()), square.emplace(optimizer.square()); });
      gather_in_first(optimizer.mean(), mean);
      gather_in_first(optimizer.square(), square);
    }
    in_first(group_, [&] {
      f(std::as_const(mean ? *mean : optimizer.mean()), std::as_const(square ? *square : optimizer.square()));
    });
  }

 private:
  static constexpr std::size_t most_elements = std::size_t{1} << 20;  // of a stretch that are on their way at once

  // --- who has what ----------------------------------------------------------------------------------------------

  void share_out() {
    const auto& engine = std::as_const(model_).engine();
    const int pieces = engine.trained_pieces(), size = group_.size();
    for (int rank = 0; rank <= size; ++rank) {
      const auto piece = static_cast<int>(first_of_shard(pieces, size, rank));
      pieces_.push_back(static_cast<std::size_t>(piece));
      elements_.push_back(rank == 0 ? 0 : piece < pieces ? engine.offset_of_piece(piece) : engine.size());
      shard_bounds_.push_back(static_cast<std::size_t>(first_shard(rank)));
    }
    squares_.resize(static_cast<std::size_t>(pieces));
    losses_.resize(static_cast<std::size_t>(shards_));
    for (int rank = 0; rank < size; ++rank) {
      std::vector<SumNode> nodes;
      append_nodes_within({0, shards_}, first_shard(rank), first_shard(rank + 1), nodes);
      nodes_.insert(nodes_.end(), nodes.begin(), nodes.end());
      if (rank == group_.rank()) own_nodes_ = std::move(nodes);
    }
    sums_.resize(own_nodes_.size() > 1 ? own_nodes_.size() : 0);
    if (size == 1) return;
    received_.resize(nodes_.size());
    const std::size_t own_stretch = elements_[own() + 1] - elements_[own()];
    for (Buffer& part : received_) part.reserve((std::min)(most_elements, own_stretch) * sizeof(Scalar));
  }

  std::size_t own() const { return static_cast<std::size_t>(group_.rank()); }
  int first_shard(int rank) const { return static_cast<int>(first_of_shard(shards_, group_.size(), rank)); }
  int rank_of(SumNode node) const { return node.first / (shards_ / group_.size()); }
  int first_piece() const { return static_cast<int>(pieces_[own()]); }
  int last_piece() const { return static_cast<int>(pieces_[own() + 1]); }

  // arena <- its stretches, each from the process that has it.
  void complete(Scalar* arena) { share(group_, arena, std::span<const std::size_t>(elements_)); }
  // to <- the others' stretches, in the first process.
  void gather_in_first(const Arena& own_means, std::optional<Arena>& to) {
    const auto stretch_of = [&](int rank, auto* arena) {
      const auto r = static_cast<std::size_t>(rank);
      return std::span(arena + elements_[r], elements_[r + 1] - elements_[r]);
    };
    send_.clear(), receive_.clear();
    if (!group_.is_first())
      send_.push_back({0, std::as_bytes(stretch_of(group_.rank(), own_means.template as<Scalar>()))});
    for (int rank = 1; group_.is_first() && rank < group_.size(); ++rank)
      receive_.push_back({rank, std::as_writable_bytes(stretch_of(rank, to->template as<Scalar>()))});
    group_.transfer(send_, receive_);
  }

  // --- gradients -------------------------------------------------------------------------------------------------

  template <class Run>
  std::tuple<double, double> clipped_gradients_of_shards(double max_norm, Run& run) {
    require(max_norm > 0, "max_norm must be positive; given ", max_norm);
    together(group_, [&] {
      for (std::size_t n = 0; n < own_nodes_.size(); ++n) {
        add_up(own_nodes_[n], 0, run);
        if (!sums_.empty()) keep_gradients(sums_[n]);
      }
    });
    share(group_, losses_.data(), std::span<const std::size_t>(shard_bounds_));
    if (group_.size() > 1) add_up_over_processes();
    const auto in_use = model_.use();
    model_.engine().sum_squares(first_piece(), last_piece(), squares_.data());
    share(group_, squares_.data(), std::span<const std::size_t>(pieces_));
    double loss = 0, square = 0;
    for (const double of_shard : losses_) loss += of_shard;
    for (const double of_piece : squares_) square += of_piece;
    const double norm = std::sqrt(square), factor = max_norm / (norm + 1e-6);
    if (is_finite(norm) && factor < 1) model_.engine().scale_gradients(factor, first_piece(), last_piece());
    return {loss, norm};
  }

  // gradients <- the sum of a node. level: how many sums wait for it.
  template <class Run>
  void add_up(SumNode node, std::size_t level, Run& run) {
    if (node.is_share()) {
      losses_[static_cast<std::size_t>(node.first)] = run(node.first);
      return;
    }
    add_up(node.left(), level, run);
    if (waiting_.size() <= level) waiting_.resize(level + 1);
    keep_gradients(waiting_[level]);
    add_up(node.right(), level + 1, run);
    Scalar* const sum = model_.engine().gradients();
    const Scalar* const left = waiting_[level].template as<Scalar>();
    for (std::size_t i = 0; i < model_.engine().size(); ++i) sum[i] = left[i] + sum[i];
  }
  void keep_gradients(Buffer& to) const {
    const auto& engine = std::as_const(model_).engine();
    to.reserve(engine.size() * sizeof(Scalar));
    std::copy_n(engine.gradients(), engine.size(), to.template as<Scalar>());
  }

  // The own stretch of the gradients <- the sum over all nodes, part after part, so that it takes little memory.
  void add_up_over_processes() {
    std::size_t longest = 0;
    for (std::size_t r = 0; r + 1 < elements_.size(); ++r)
      longest = (std::max)(longest, elements_[r + 1] - elements_[r]);
    for (std::size_t at = 0; at < longest; at += most_elements) add_up_part(at);
  }
  void add_up_part(std::size_t at) {
    Scalar* const gradients = model_.engine().gradients();
    const auto sum_of_own = [&](std::size_t n) { return sums_.empty() ? gradients : sums_[n].template as<Scalar>(); };
    struct Part {
      std::size_t first, count;
    };
    const auto part_of = [&](int rank) {
      const auto r = static_cast<std::size_t>(rank);
      const std::size_t first = (std::min)(elements_[r] + at, elements_[r + 1]);
      return Part{first, (std::min)(most_elements, elements_[r + 1] - first)};
    };
    send_.clear(), receive_.clear();
    for (int rank = 0; rank < group_.size(); ++rank) {
      const Part theirs = part_of(rank);
      for (std::size_t n = 0; n < own_nodes_.size() && rank != group_.rank() && theirs.count > 0; ++n)
        send_.push_back({rank, std::as_bytes(std::span(sum_of_own(n) + theirs.first, theirs.count))});
    }
    const Part part = part_of(group_.rank());
    std::size_t of_own = 0;
    for (std::size_t n = 0; n < nodes_.size() && part.count > 0; ++n) {
      auto* const to = received_[n].template as<Scalar>();
      if (rank_of(nodes_[n]) == group_.rank()) std::copy_n(sum_of_own(of_own++) + part.first, part.count, to);
      else receive_.push_back({rank_of(nodes_[n]), std::as_writable_bytes(std::span(to, part.count))});
    }
    group_.transfer(send_, receive_);
    if (part.count > 0) std::copy_n(sum_of({0, shards_}, part.count), part.count, gradients + part.first);
  }
  // Where the sum of a node stands, of what was received.
  Scalar* sum_of(SumNode node, std::size_t count) {
    if (const auto found = std::find(nodes_.begin(), nodes_.end(), node); found != nodes_.end())
      return received_[static_cast<std::size_t>(found - nodes_.begin())].template as<Scalar>();
    Scalar* const left = sum_of(node.left(), count);
    const Scalar* const right = sum_of(node.right(), count);
    for (std::size_t i = 0; i < count; ++i) left[i] += right[i];
    return left;
  }

  ModelType& model_;
  Group& group_;
  int shards_;
  // By rank where a process's pieces of what is trained begin, its elements of an arena, its shards; and the ends.
  std::vector<std::size_t> pieces_, elements_, shard_bounds_;
  std::vector<SumNode> nodes_, own_nodes_;  // that all processes add up, and this one
  std::vector<double> squares_, losses_;    // of each piece, of each shard
  std::vector<Buffer> waiting_, sums_, received_;
  std::vector<Outgoing> send_;
  std::vector<Incoming> receive_;
};

}  // namespace mamba
