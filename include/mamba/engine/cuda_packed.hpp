// Packed tiles (packing.hpp) on a GPU.
#pragma once

#include <cstddef>
#include <vector>

#include <mamba/cuda/runtime/buffer.hpp>
#include <mamba/engine/packing.hpp>

namespace mamba {

class DeviceTiles {
 public:
  explicit DeviceTiles(const cuda::QueuePointer& queue) : lists_(queue) {}

  void upload(const PackedTiles& tiles) {
    joined_.clear();
    int number = 0;
    for (const auto& list : tiles.lists()) {
      offsets_[number++] = joined_.size();
      joined_.insert(joined_.end(), list.begin(), list.end());
    }
    lists_.upload(joined_.data(), joined_.size());
  }

  // The lists in device memory.
  const int* firsts() const { return list(0); }
  const int* tokens() const { return list(1); }
  const int* times() const { return list(2); }
  const int* readouts() const { return list(3); }
  // A view of one tile, for kernels.
  network::Tile tile(const network::TileRange& range) const {
    return range.tile(firsts(), tokens(), times(), readouts());
  }
  std::size_t bytes() const { return lists_.bytes(); }

 private:
  const int* list(int number) const { return lists_.as<int>() + offsets_[number]; }

  std::vector<int> joined_;
  std::size_t offsets_[4] = {};
  cuda::DeviceBuffer lists_;
};

// Of batches of sequences of one length whose tokens come to be on the device: their tiles, laid out once.
struct DrawnTiles {
  int sequences, length;
  PackedTiles on_host;
  DeviceTiles on_device;
  std::vector<network::TileRange> ranges;

  std::size_t bytes() const { return on_device.bytes(); }
};

}  // namespace mamba
