// Decoding steps at grid scope: one token for each of not too many sequences. Their kernels are many and short, so that
// launching them one by one takes longer than they do: a step is a graph, made when one first reads and writes at these
// addresses. cuBLAS has no part in it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <mamba/core/views.hpp>
#include <mamba/cuda/grid/backend.hpp>
#include <mamba/engine/cuda_grid_sizes.hpp>
#include <mamba/network/network.hpp>

namespace mamba {

template <class A>
class RecordedSteps {
 public:
  using T = typename A::Scalar;
  using Sizes = GridTileSizes<A>;
  using Logits = Rows<const T, Sizes::Vp>;

  static constexpr std::size_t most = 8;  // that are kept

  // Returns where the logits come to be, on the device.
  Logits run(cuda::Grid& grid, network::ModelWeights<A> w, const network::Tile& tile,
             typename Sizes::Activations& activations, network::TileStates<T> states) {
    const Key key = key_of(grid, w, tile, activations, states);
    auto step = std::find_if(steps_.begin(), steps_.end(), [&](const Step& known) { return known.key == key; });
    if (step == steps_.end()) {
      Step recorded{key, std::make_unique<cuda::Graph>(), {}};
      network::NoProbe probe;
      grid.record(*recorded.graph, [&] {
        network::forward(grid, activations, tile, w, states, probe);
        network::read_out(grid, activations, tile, w, [&](int, auto& head) { recorded.logits = in(head.logits); });
      });
      if (steps_.size() == most) steps_.erase(steps_.begin());  // the one that was used longest ago
      steps_.push_back(std::move(recorded));
    } else {
      std::rotate(step, step + 1, steps_.end());
    }
    const Step& last = steps_.back();
    last.graph->launch(grid.queue());
    return last.logits;
  }

 private:
  // What a graph has within it.
  struct Key {
    std::array<const void*, 9> addresses;
    std::array<std::size_t, 3> sizes;  // sequences, and how far apart layers are

    bool operator==(const Key&) const = default;
  };
  struct Step {
    Key key;
    std::unique_ptr<cuda::Graph> graph;
    Logits logits;
  };

  static Key key_of(cuda::Grid& grid, network::ModelWeights<A> w, const network::Tile& tile,
                    typename Sizes::Activations& activations, network::TileStates<T> states) {
    const auto embedding = w.front().template get<"backbone.embedding.weight">();
    return {
        {w.pointers.values, w.pointers.derived, embedding.value, tile.tokens, tile.positions, states.history,
         states.states, activations.residual(0).data, grid.scratch(Sizes::step_scratch_bytes(tile.sequences.count))},
        {static_cast<std::size_t>(tile.sequences.count), states.history_layer, states.states_layer}};
  }

  std::vector<Step> steps_;
};

}  // namespace mamba
