// How the states of a channel lie in the lanes of a warp.
#pragma once

#include <mamba/core/views.hpp>
#include <mamba/cuda/block/block.hpp>

namespace mamba::cuda::detail {

// How the states of a channel lie in a warp.
template <int N>
struct ScanLayout {
  static constexpr int quads = padded(N) / 4;
  static constexpr int width = quads >= 32 ? 32 : quads >= 16 ? 16 : quads >= 8 ? 8 : 4;  // lanes of a channel
  static constexpr int quads_per_lane = (quads + width - 1) / width, states = 4 * quads_per_lane;
  static constexpr int channels = 32 / width;             // of a warp at once
  static constexpr int groups = Block::warps * channels;  // channels of a block at once
  static constexpr int chunk = BlockTuning::scan_chunk(states);

  static __device__ int group() { return warp() * channels + lane() / width; }

  // f(index of the lane's state, state's number) for the first of every four; lanes without any are left out.
  template <class F>
  static __device__ void each_quad(F&& f) {
#pragma unroll
    for (int q = 0; q < quads_per_lane; ++q) {
      const int quad = q * width + lane() % width;
      if (quads % width == 0 || quad < quads) f(4 * q, 4 * quad);
    }
  }
  template <class T>
  static __device__ void load(T (&to)[states], const T* row) {
    if constexpr (quads % width != 0) {
#pragma unroll
      for (int i = 0; i < states; ++i) to[i] = 0;
    }
    each_quad([&](int i, int n) {
      const auto q = load4(row + n);
#pragma unroll
      for (int j = 0; j < 4; ++j) to[i + j] = q.at[j];
    });
  }
  template <class T>
  static __device__ void store(T* row, const T (&from)[states]) {
    each_quad([&](int i, int n) {
      Quad<T> q;
#pragma unroll
      for (int j = 0; j < 4; ++j) q.at[j] = from[i + j];
      store4(row + n, q);
    });
  }
};

// The sums of Count values each over groups of Width lanes (powers of 2) by way of shared memory, which takes fewer
// instructions than exchanging registers: every lane writes its values as a row, then adds up its part of the columns.
template <int Count, int Width>
struct LaneSums {
  static constexpr int row = Count % 8 == 0 ? Count + 4 : Count + 1;  // so that neither rows nor columns meet in a bank
  static constexpr int elements = 32 * row;                           // of shared memory for a warp
  static constexpr int parts = Width > Count ? Width / Count : 1;     // lanes that share a column's sum
  static constexpr int columns = Count > Width ? Count / Width : 1;   // of a lane

  // The lane's part of the columns, and the number of its first value.
  static __device__ int part() { return lane() % Width % parts; }
  static __device__ int first() { return lane() % Width / parts * columns; }

  // Leaves the values in shared memory, `elements` of it; what was there before must have been taken.
  template <class T>
  static __device__ void put(const T (&values)[Count], T* shared) {
    T* const own = shared + lane() * row;
    if constexpr (Count % 8 == 0) {
#pragma unroll
      for (int v = 0; v < Count; v += 4)
        store4(own + v, Quad<T>{{values[v], values[v + 1], values[v + 2], values[v + 3]}});
    } else {
#pragma unroll
      for (int v = 0; v < Count; ++v) own[v] = values[v];
    }
    __syncwarp();
  }

  // use(number of the value, sum of what was put) on every lane that has a part in it. Best some work after put().
  template <class T, class Use>
  static __device__ void take(const T* shared, Use&& use) {
    const T* const rows = shared + (lane() / Width * Width + part()) * row + first();
    T sums[columns];
#pragma unroll
    for (int c = 0; c < columns; ++c) {
      T two[2] = {};  // chains half as long
#pragma unroll
      for (int i = 0; i < Width / parts; ++i) two[i % 2] += rows[i * parts * row + c];
      sums[c] = lane_sum<parts>(two[0] + two[1]);
    }
    __syncwarp();  // the rows may be written again
#pragma unroll
    for (int c = 0; c < columns; ++c) use(first() + c, sums[c]);
  }
};

// The same for Count pairs of values (a power of 2) of each of `Channels` channels that a group of lanes works on one
// after the other. A lane puts its pairs one by one; channel by channel the rows of some lanes are added up, and the
// last few sums when all is done. Rows are permuted so that neither what is put nor what is read at once meets in a
// bank.
template <int Count, int Width, int Channels>
struct ChannelSums {
  static constexpr int parts = Width > Count ? Width / Count : 1;         // lanes that share a pair's sum
  static constexpr int columns = Count > Width ? Count / Width : 1;       // pairs of a lane
  static constexpr int rows = Width / parts;                              // that a lane adds up
  static constexpr int elements = 32 * 2 * (Count + Channels * columns);  // of shared memory for a warp
  template <class T>
  struct alignas(2 * sizeof(T)) Pair {
    T first, second;
  };

  template <class T>
  static __device__ auto& row_slot(T* shared, int lane, int k) {
    return reinterpret_cast<Pair<T>*>(shared)[lane * Count + (k ^ (lane / 2 % Count))];
  }
  template <class T>
  static __device__ auto& sum_slot(T* shared, int channel, int lane, int column) {
    return reinterpret_cast<Pair<T>*>(shared)[32 * Count + (channel * 32 + lane) * columns + column];
  }

  // Leaves the lane's pair number k of the channel at hand, when all lanes have added up those of the channel before.
  template <class T>
  static __device__ void put(T* shared, int k, T first, T second) {
    row_slot(shared, lane(), k) = {first, second};
  }
  // Adds up what the lanes have put for this channel, __syncwarp() after it.
  template <class T>
  static __device__ void add_up(T* shared, int channel) {
    const int part = lane() % Width / rows, first = lane() % Width % rows * columns;
    Pair<T> sums[columns][2] = {};  // chains half as long
#pragma unroll
    for (int c = 0; c < columns; ++c)
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        const auto pair =
            row_slot(shared, lane() / Width * Width + part * rows + (i ^ (part & (rows - 1) & 1)), first + c);
        sums[c][i % 2].first += pair.first, sums[c][i % 2].second += pair.second;
      }
#pragma unroll
    for (int c = 0; c < columns; ++c)
      sum_slot(shared, channel, lane(), c) = {sums[c][0].first + sums[c][1].first,
                                              sums[c][0].second + sums[c][1].second};
  }
  // Of the warp's group of lanes number `group`, channel and pair: the two sums.
  template <class T>
  static __device__ Pair<T> sum(const T* shared, int group, int channel, int k) {
    Pair<T> sum{};
#pragma unroll
    for (int part = 0; part < parts; ++part) {
      const auto& of_part =
          sum_slot(const_cast<T*>(shared), channel, group * Width + part * rows + k / columns, k % columns);
      sum.first += of_part.first, sum.second += of_part.second;
    }
    return sum;
  }
};

}  // namespace mamba::cuda::detail
