// A model's arenas on the CPU, what is derived from them, and what the optimiser does to them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/core/memory.hpp>
#include <mamba/core/threads.hpp>
#include <mamba/eigen/tuning.hpp>
#include <mamba/eigen/weights.hpp>
#include <mamba/engine/arena.hpp>
#include <mamba/engine/cpu_weights.hpp>
#include <mamba/math/adamw.hpp>
#include <mamba/network/network.hpp>

namespace mamba {

template <class A>
class CpuArenas : public Arenas<A, Buffer> {
  using Base = Arenas<A, Buffer>;
  using Base::parameters_, Base::stale_;

 public:
  using Base::gradients, Base::mutable_parameters, Base::placed;
  using typename Base::Arena, typename Base::T;

  explicit CpuArenas(const ModelOptions& options)
      : Base(options.n_layers, [](std::size_t bytes) { return Buffer(bytes); }),
        pool_(std::make_unique<ThreadPool>(options.threads)),
        weights_(size_) {
    // What the optimiser touches, in pieces that threads share out: frozen parameters lie between them.
    constexpr std::size_t most = eigen::Tuning::optimiser_piece;
    for (const PlacedParameter& p : placed())
      for (std::size_t at = 0; p.parameter.trained && at < p.parameter.arena_size(); at += most)
        trained_.push_back({p.offset + at, (std::min)(most, p.parameter.arena_size() - at)});
    squares_.resize(trained_.size());
  }

  ThreadPool& pool() { return *pool_; }

  std::size_t memory_bytes() const { return bytes_of_arenas() + kept_.bytes(); }
  // What a call with gradients needs whatever its batch.
  std::size_t bytes_of_arenas() const { return Base::memory_bytes() + weights_.bytes(); }

  // The Euclidean norm of the trained parameters' gradients, summed in double in a fixed order.
  double gradient_norm() {
    sum_squares(0, trained_pieces(), squares_.data());
    double sum = 0;
    for (const double square : squares_) sum += square;
    return std::sqrt(sum);
  }
  void scale_gradients(double factor) { scale_gradients(factor, 0, trained_pieces()); }

  // One AdamW update of the trained parameters; mean and square are arenas.
  void adamw(Arena& mean, Arena& square, const math::AdamWStep& step) {
    adamw(mean, square, step, 0, trained_pieces());
  }

  // The same for pieces [first, last) of what is trained, in which several processes share it out, and where each of
  // them begins in an arena. squares[piece] <- the sum of the squares of its gradients.
  int trained_pieces() const { return static_cast<int>(trained_.size()); }
  std::size_t offset_of_piece(int piece) const { return trained_[static_cast<std::size_t>(piece)].offset; }
  void sum_squares(int first, int last, double* squares) {
    each_piece(first, last, [&](int i, std::size_t offset, std::size_t count) {
      squares[i] = eigen::sum_of_squares(gradients() + offset, count);
    });
  }
  void scale_gradients(double factor, int first, int last) {
    each_piece(first, last, [&](int, std::size_t offset, std::size_t count) {
      eigen::scale(gradients() + offset, count, static_cast<T>(factor));
    });
  }
  void adamw(Arena& mean, Arena& square, const math::AdamWStep& step, int first, int last) {
    each_piece(first, last, [&](int, std::size_t offset, std::size_t count) {
      eigen::adamw(mutable_parameters() + offset, mean.template as<T>() + offset, square.template as<T>() + offset,
                   gradients() + offset, count, step);
    });
    stale_ = true;
  }

  // gradients += those that were kept.
  void keep_gradients() { kept_ = gradients_; }
  void add_kept_gradients() {
    T* const to = gradients();
    const T* const kept = kept_.template as<T>();
    for (std::size_t i = 0; i < size_; ++i) to[i] += kept[i];
  }

 protected:
  using Base::derived_, Base::gradients_, Base::n_layers_, Base::size_;

  // Renews what is derived from the parameters, if these have changed.
  void prepare() {
    if (!stale_) return;
    pool_->run(static_cast<int>(placed().size()), [&](int i, int) {
      weights_.renew(placed()[static_cast<std::size_t>(i)], parameters_.template as<T>(), derived_.template as<T>());
    });
    stale_ = false;
  }
  network::ModelWeights<A> weights() const {
    return weights_.of(parameters_.template as<T>(), derived_.template as<T>(), n_layers_);
  }

  std::unique_ptr<ThreadPool> pool_;

 private:
  struct Piece {  // elements of an arena that an optimiser changes
    std::size_t offset, count;
  };

  // body(piece, its place in an arena, its elements), shared out over the threads.
  template <class Body>
  void each_piece(int first, int last, Body&& body) {
    pool_->run(last - first, [&](int i, int) {
      const Piece& piece = trained_[static_cast<std::size_t>(first + i)];
      body(first + i, piece.offset, piece.count);
    });
  }

  std::vector<Piece> trained_;
  std::vector<double> squares_;
  CpuWeights<A> weights_;
  Buffer kept_;
};

}  // namespace mamba
