// The probes that models offer: calling a function at every point, blocking, substitution.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include <mamba/core/views.hpp>
#include <mamba/network/probe.hpp>

namespace mamba {

// Calls visitor(point, layer, rows, where) at every point of the forward pass, or with gradients of the backward pass;
// where[i] is the place of row i in the batch, sequence * length + time. The visitor may change the rows.
template <class Visitor, bool gradients = false>
class FunctionProbe : public network::NoProbe {
 public:
  FunctionProbe(Visitor& visitor, std::span<const int> where) : visitor_(&visitor), where_(where) {}

  void layer(int l) { layer_ = l; }
  template <Point point, class T>
  void visit(MatrixView<T> rows) {
    if constexpr (!gradients) (*visitor_)(point, layer_, rows, where_);
  }
  template <Point point, class T>
  void visit_gradient(MatrixView<T> rows) {
    if constexpr (gradients) (*visitor_)(point, layer_, rows, where_);
  }

 private:
  Visitor* visitor_;
  std::span<const int> where_;
  int layer_ = 0;
};

// Which layers an intervention works in: those listed, or all when none is.
class ChosenLayers {
 public:
  explicit ChosenLayers(std::span<const int> layers) : layers_(layers) {}
  bool contains(int l) const { return layers_.empty() || std::find(layers_.begin(), layers_.end(), l) != layers_.end(); }

 private:
  std::span<const int> layers_;
};

// Which entries of S blocking takes away in a masked row j's column (specification, section 11.1).
enum class Reading {
  strict,      // all i > j
  downstream,  // only i behind the sequence's last masked row: what masked rows tell each other stays
};

// Cuts the masked rows off from later ones.
template <Reading reading>
class BlockingProbe : public network::NoProbe {
 public:
  static constexpr bool restores_rows = reading == Reading::downstream;

  // mask: (T) of a tile of sequences of one length
  BlockingProbe(const std::uint8_t* mask, int length, ChosenLayers layers) : mask_(mask), length_(length), layers_(layers) {}

  void layer(int l) { rows_ = {layers_.contains(l) ? mask_ : nullptr}; }
  BlockedRows blocked_rows() const { return rows_; }

  // Up to a sequence's last masked row the output stays what it is without blocking.
  template <class T>
  void restore(MatrixView<T> y, MatrixView<T> unblocked) const {
    for (std::ptrdiff_t first = 0; first < y.rows(); first += length_) {
      std::ptrdiff_t end = first + length_;
      while (end > first && !mask_[end - 1]) --end;
      for (std::ptrdiff_t i = first; i < end; ++i) std::copy_n(unblocked.row(i).begin(), y.cols(), y.row(i).begin());
    }
  }

 private:
  const std::uint8_t* mask_;
  int length_;
  ChosenLayers layers_;
  BlockedRows rows_;
};

// Keeps every layer's activations after the convolution ...
template <class T>
class RecordingProbe : public network::NoProbe {
 public:
  explicit RecordingProbe(std::vector<T>& record) : record_(&record) { record_->clear(); }

  template <Point point>
  void visit(MatrixView<T> rows) {
    if constexpr (point == Point::conv_output)
      for (std::ptrdiff_t i = 0; i < rows.rows(); ++i) record_->insert(record_->end(), rows.row(i).begin(), rows.row(i).end());
  }

 private:
  std::vector<T>* record_;
};

// ... and puts them in place of another run's in the masked rows (specification, section 11.2).
template <class T>
class SubstitutingProbe : public network::NoProbe {
 public:
  SubstitutingProbe(const std::vector<T>& record, const std::uint8_t* mask, ChosenLayers layers) : record_(&record), mask_(mask), layers_(layers) {}

  void layer(int l) { layer_ = l; }
  template <Point point>
  void visit(MatrixView<T> rows) {
    if constexpr (point == Point::conv_output) {
      if (!layers_.contains(layer_)) return;
      const T* const recorded = record_->data() + static_cast<std::ptrdiff_t>(layer_) * rows.rows() * rows.cols();
      for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
        if (mask_[i]) std::copy_n(recorded + i * rows.cols(), rows.cols(), rows.row(i).begin());
    }
  }

 private:
  const std::vector<T>* record_;
  const std::uint8_t* mask_;
  ChosenLayers layers_;
  int layer_ = 0;
};

}  // namespace mamba
