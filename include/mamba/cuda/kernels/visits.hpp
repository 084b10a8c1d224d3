// Visits inside a kernel over tiles, where nobody can call the host: the kernel writes down the rows of every visit,
// and in its next run puts back those that the host has changed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>
#include <mamba/math/turns.hpp>
#include <mamba/network/probe.hpp>
#include <mamba/network/tile.hpp>

namespace mamba::cuda {

// Nobody looks.
struct NoVisits {
  __device__ network::NoProbe probe(const network::TileRange&) const { return {}; }
};

// One of the visits that each tile's pass makes, in their order.
struct Visit {
  Point point;
  int layer, columns;
};

// What a kernel is given; `gradients`: visits of the backward pass. Without records it only lists them.
template <class T, bool gradients>
struct TileVisits {
  Visit* list;                   // of all visits, written where there are no records
  T* records;                    // one visit's matrix (rows of all tiles, its columns) behind the other
  const std::uint8_t* replaced;  // (visits) whose record is put in place of the rows
  int rows;

  class Probe : public network::NoProbe {
   public:
    __device__ Probe(const TileVisits& all, int first_row) : all_(all), first_row_(first_row) {}

    __device__ void layer(int l) { layer_ = l; }
    template <Point point, class Row>
    __device__ void visit(MatrixView<Row> rows) {
      if constexpr (!gradients) take(point, rows);
    }
    // In radians; an angle whose record is what it was stays so to the last part of a turn.
    template <Point point, class I>
    __device__ void visit_angles(MatrixView<I> turns) {
      if constexpr (!gradients) take(point, turns);
    }
    template <Point point, class Row>
    __device__ void visit_gradient(MatrixView<Row> rows) {
      if constexpr (gradients) take(point, rows);
    }

   private:
    template <class Row>
    __device__ void take(Point point, MatrixView<Row> rows) {
      const auto columns = static_cast<int>(rows.cols());
      if (all_.records) {
        T* const record = all_.records + columns_before_ * static_cast<std::size_t>(all_.rows) +
                          static_cast<std::size_t>(first_row_) * static_cast<std::size_t>(columns);
        const bool replaced = all_.replaced[number_] != 0;
        detail::each(static_cast<int>(rows.rows()) * columns, [&](int i) {
          Row& x = rows(i / columns, i % columns);
          if constexpr (std::is_unsigned_v<Row>) {
            const T angle = math::radians_of<T>(x);
            if (!replaced) record[i] = angle;
            else if (record[i] != angle) x = math::turns_of_radians(record[i]);
          } else {
            if (replaced) x = record[i];
            else record[i] = x;
          }
        });
        __syncthreads();
      } else if (first_row_ == 0 && detail::thread() == 0) {
        all_.list[number_] = {point, layer_, columns};
      }
      ++number_;
      columns_before_ += static_cast<std::size_t>(columns);
    }

    TileVisits all_;
    int first_row_, layer_ = 0, number_ = 0;
    std::size_t columns_before_ = 0;
  };

  __device__ Probe probe(const network::TileRange& range) const { return {*this, range.tokens}; }
};

}  // namespace mamba::cuda
