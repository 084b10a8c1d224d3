// The probes that models offer: calling a function at every point, blocking, substitution. How they touch rows is an
// engine's own: RowAccess is HostRows, or another class of its members.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/probe.hpp>

namespace mamba {

// Rows in the host's memory.
struct HostRows {
  template <class T>
  using Record = std::vector<T>;

  // f(the rows on the host, as they are computed with); what it changes is changed.
  template <class T, class F>
  void on_host(MatrixView<T> rows, F&& f) {
    using Computed = ComputeOf<T>;
    if constexpr (std::is_same_v<T, Computed>) {
      f(rows);
    } else {
      std::vector<Computed> values(static_cast<std::size_t>(rows.rows() * rows.cols()));
      const MatrixView<Computed> widened(values.data(), rows.rows(), rows.cols(), rows.cols());
      for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
        std::copy(rows.row(i).begin(), rows.row(i).end(), widened.row(i).begin());
      f(widened);
      for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
        std::copy(widened.row(i).begin(), widened.row(i).end(), rows.row(i).begin());
    }
  }
  // to's rows <- from's where mask (rows) is 1.
  template <class T>
  void replace(MatrixView<T> to, MatrixView<const T> from, const std::uint8_t* mask) const {
    for (std::ptrdiff_t i = 0; i < to.rows(); ++i)
      if (mask[i] != 0) std::copy_n(from.row(i).begin(), to.cols(), to.row(i).begin());
  }
  // The record's part number `index` of `count` <- rows; such a part.
  template <class T>
  void keep(Record<T>& record, int index, int count, MatrixView<T> rows) const {
    const std::ptrdiff_t size = rows.rows() * rows.cols();
    record.resize(static_cast<std::size_t>(count * size));
    for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
      std::copy_n(rows.row(i).begin(), rows.cols(), record.begin() + index * size + i * rows.cols());
  }
  template <class T>
  static const T* data(const Record<T>& record) {
    return record.data();
  }
};

// Calls visitor(point, layer, rows, where) at every point of the forward pass, or with gradients of the backward pass;
// where[i] is row i's index in the batch, sequence * length + time. The visitor may change the rows.
template <class Visitor, class RowAccess, bool gradients = false>
class FunctionProbe : public network::NoProbe {
 public:
  FunctionProbe(RowAccess access, Visitor& visitor, std::span<const int> where)
      : access_(std::move(access)), visitor_(&visitor), where_(where) {}

  void layer(int l) { layer_ = l; }
  template <Point point, class T>
  void visit(MatrixView<T> rows) {
    if constexpr (!gradients) call(point, rows);
  }
  // The visitor sees radians; an angle that it leaves as it is stays what it was to the last part of a turn. Throws
  // Error for one that is not finite, which an angle cannot tell.
  template <Point point, class I>
  void visit_angles(MatrixView<I> turns) {
    if constexpr (!gradients)
      access_.on_host(turns, [&](MatrixView<I> on_host) {
        using T = std::conditional_t<sizeof(I) == 4, float, double>;
        std::vector<T> radians(static_cast<std::size_t>(on_host.rows() * on_host.cols()));
        const MatrixView<T> angles(radians.data(), on_host.rows(), on_host.cols(), on_host.cols());
        for (std::ptrdiff_t i = 0; i < angles.rows(); ++i)
          for (std::ptrdiff_t j = 0; j < angles.cols(); ++j) angles(i, j) = math::radians_of<T>(on_host(i, j));
        (*visitor_)(point, layer_, angles, where_);
        for (std::ptrdiff_t i = 0; i < angles.rows(); ++i)
          for (std::ptrdiff_t j = 0; j < angles.cols(); ++j) {
            const T angle = angles(i, j);
            require(is_finite(angle), "an angle was set to ", angle);
            if (angle != math::radians_of<T>(on_host(i, j))) on_host(i, j) = math::turns_of_radians(angle);
          }
      });
  }
  template <Point point, class T>
  void visit_gradient(MatrixView<T> rows) {
    if constexpr (gradients) call(point, rows);
  }

 private:
  template <class T>
  void call(Point point, MatrixView<T> rows) {
    access_.on_host(rows, [&](auto on_host) { (*visitor_)(point, layer_, on_host, where_); });
  }

  RowAccess access_;
  Visitor* visitor_;
  std::span<const int> where_;
  int layer_ = 0;
};

// Which layers an intervention works in: those listed, or all when none is.
class ChosenLayers {
 public:
  explicit ChosenLayers(std::span<const int> layers) : layers_(layers) {}
  bool contains(int l) const {
    return layers_.empty() || std::find(layers_.begin(), layers_.end(), l) != layers_.end();
  }

 private:
  std::span<const int> layers_;
};

// Which entries of S blocking takes away in a masked row j's column (specification, section 11.1).
enum class Reading {
  strict,      // all i > j
  downstream,  // only i behind the sequence's last masked row: what masked rows tell each other stays
};

// (rows) 1 from each sequence's first row to its last masked one; all sequences are of one length.
inline std::vector<std::uint8_t> rows_up_to_masked(std::span<const std::uint8_t> mask, int length) {
  std::vector<std::uint8_t> rows(mask.begin(), mask.end());
  for (std::size_t i = rows.size(); i-- > 1;)
    if (i % static_cast<std::size_t>(length) != 0) rows[i - 1] |= rows[i];
  return rows;
}

// Cuts the masked rows off from later ones. mask and up_to_masked (rows_up_to_masked) are a tile's (T), where its rows
// lie.
template <Reading reading, class RowAccess>
class BlockingProbe : public network::NoProbe {
 public:
  static constexpr bool restores_rows = reading == Reading::downstream;

  BlockingProbe(RowAccess access, const std::uint8_t* mask, const std::uint8_t* up_to_masked, ChosenLayers layers)
      : access_(std::move(access)), mask_(mask), up_to_masked_(up_to_masked), layers_(layers) {}

  void layer(int l) { rows_ = {layers_.contains(l) ? mask_ : nullptr}; }
  BlockedRows blocked_rows() const { return rows_; }
  // Up to a sequence's last masked row the output stays what it is without blocking.
  template <class T>
  void restore(MatrixView<T> y, MatrixView<T> unblocked) const {
    access_.template replace<T>(y, unblocked, up_to_masked_);
  }

 private:
  RowAccess access_;
  const std::uint8_t *mask_, *up_to_masked_;
  ChosenLayers layers_;
  BlockedRows rows_;
};

// Keeps what every layer's block uses of the convolution, after SiLU and bypass ...
template <class T, class RowAccess>
class RecordingProbe : public network::NoProbe {
 public:
  using Record = typename RowAccess::template Record<T>;

  RecordingProbe(RowAccess access, Record& record, int n_layers)
      : access_(std::move(access)), record_(&record), n_layers_(n_layers) {}

  void layer(int l) { layer_ = l; }
  template <Point point, class Row>
  void visit(MatrixView<Row> rows) {
    if constexpr (point == Point::conv_output) access_.template keep<T>(*record_, layer_, n_layers_, rows);
  }

 private:
  RowAccess access_;
  Record* record_;
  int n_layers_, layer_ = 0;
};

// ... and puts them in place of another run's in the rows whose mask (T) is 1 (specification, section 11.2).
template <class T, class RowAccess>
class SubstitutingProbe : public network::NoProbe {
 public:
  using Record = typename RowAccess::template Record<T>;

  SubstitutingProbe(RowAccess access, const Record& record, const std::uint8_t* mask, ChosenLayers layers)
      : access_(std::move(access)), record_(&record), mask_(mask), layers_(layers) {}

  void layer(int l) { layer_ = l; }
  template <Point point, class Row>
  void visit(MatrixView<Row> rows) {
    if constexpr (point == Point::conv_output) {
      if (!layers_.contains(layer_)) return;
      const T* const recorded = RowAccess::template data<T>(*record_) + layer_ * rows.rows() * rows.cols();
      access_.template replace<T>(rows, {recorded, rows.rows(), rows.cols(), rows.cols()}, mask_);
    }
  }

 private:
  RowAccess access_;
  const Record* record_;
  const std::uint8_t* mask_;
  ChosenLayers layers_;
  int layer_ = 0;
};

}  // namespace mamba
