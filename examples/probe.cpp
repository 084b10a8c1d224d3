// Looking inside: the step sizes of every layer, and what the model says when one layer's are set to zero.
#include <algorithm>
#include <cstdio>
#include <vector>

#include <mamba/composite.hpp>

inline constexpr mamba::Config config{.vocab_size = 100, .d_model = 32, .d_state = 16};

int main() {
  mamba::MambaForComposite<config> model({.n_layers = 2, .gamma = 0.5, .seed = 1});
  const std::vector<std::int32_t> ids{25, 31, 47, 52, 1, 2, 60, 71};

  const auto deltas = model.activations(mamba::Point::delta, ids, 1);
  for (std::size_t layer = 0; layer < deltas.size(); ++layer) {
    const auto values = deltas[layer].values();
    const auto [least, most] = std::minmax_element(values.begin(), values.end());
    std::printf("layer %zu: step sizes from %.4f to %.4f\n", layer, static_cast<double>(*least),
                static_cast<double>(*most));
  }

  const auto before = model.visit(ids, 1, [](mamba::Point, int, auto, std::span<const int>) {});
  const auto after = model.visit(ids, 1, [](mamba::Point point, int layer, auto rows, std::span<const int>) {
    if (point != mamba::Point::delta || layer != 1) return;
    for (std::ptrdiff_t i = 0; i < rows.rows(); ++i) std::fill(rows.row(i).begin(), rows.row(i).end(), 0.0F);
  });
  std::printf("logit of token 10: %.6f, without layer 1's time %.6f\n", static_cast<double>(before(0, 10)),
              static_cast<double>(after(0, 10)));
  return before(0, 10) != after(0, 10) ? 0 : 1;
}
