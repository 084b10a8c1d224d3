// A visitor of what a model computes at block scope (cuda/kernels/visits.hpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/core/views.hpp>
#include <mamba/cuda/kernels/visits.hpp>
#include <mamba/cuda/runtime/buffer.hpp>
#include <mamba/engine/cuda_probes.hpp>
#include <mamba/network/probe.hpp>

namespace mamba {

// Of one call.
template <class T, bool gradients>
class BlockVisits {
 public:
  explicit BlockVisits(const cuda::QueuePointer& queue)
      : queue_(queue), list_(queue), records_(queue), replaced_(queue) {}

  // visitor(point, layer, rows, where) at every point, with the rows of all tiles; where[i] is row i's index in the
  // batch. launch(TileVisits) runs the kernel over all tiles: twice, and once more for each point whose rows the
  // visitor changes. Up to there the next run repeats the last to the bit, so that what was visited stays what it was.
  // The rows of all points of the batch are in device memory at once.
  template <class Launch, class Visitor>
  void each(int n_layers, std::span<const int> where, Launch&& launch, Visitor& visitor) {
    std::vector<cuda::Visit> visits(static_cast<std::size_t>(n_layers) * point_count);
    list_.reserve(visits.size() * sizeof(cuda::Visit));
    replaced_.reserve(visits.size());
    const auto rows = static_cast<int>(where.size());
    const auto run = [&] {
      launch(cuda::TileVisits<T, gradients>{list_.as<cuda::Visit>(), records_.as<T>(), replaced_.as<std::uint8_t>(),
                                            rows});
    };
    run();
    list_.download(visits.data(), visits.size());
    std::size_t columns = 0;
    for (const auto& visit : visits) columns += static_cast<std::size_t>(visit.columns);  // 0 behind the last
    records_.reserve(columns * where.size() * sizeof(T));
    run();
    T* record = records_.as<T>();
    DeviceRows on_device(*queue_);
    for (std::size_t number = 0; number < visits.size() && visits[number].columns > 0; ++number) {
      const auto [point, layer, of_visit] = visits[number];
      const bool changed = on_device.on_host(MatrixView<T>(record, rows, of_visit, of_visit), [&](MatrixView<T> seen) {
        visitor(point, layer, seen, where);
        if (!gradients && point == Point::angles) check_angles(seen);
      });
      record += static_cast<std::ptrdiff_t>(rows) * of_visit;
      if (!changed) continue;
      cuda::check(cudaMemsetAsync(replaced_.as<std::uint8_t>() + number, 1, 1, queue_->stream()), "cudaMemsetAsync");
      run();
    }
  }

 private:
  // An angle cannot tell that it is not finite.
  static void check_angles(MatrixView<T> angles) {
    for (std::ptrdiff_t i = 0; i < angles.rows(); ++i)
      for (const T angle : angles.row(i)) require(is_finite(angle), "an angle was set to ", angle);
  }

  cuda::QueuePointer queue_;
  cuda::DeviceBuffer list_, records_, replaced_;
};

}  // namespace mamba
