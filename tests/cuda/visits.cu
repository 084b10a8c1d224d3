// What visitors see of a model on the GPU, and what comes of what they change, beside the CPU.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <map>
#include <utility>
#include <vector>

#include <mamba/composite.hpp>

#include "support/parity.hpp"

using namespace mamba;

namespace {

inline constexpr Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 5},
    even_config{.vocab_size = 11, .d_model = 8, .d_state = 6};
// Of one and of several outputs a head.
inline constexpr Mamba3Config of_heads{.headdim = 4, .ngroups = 2},
    of_ranks{.headdim = 4, .rank = 2, .rotates_all = true, .output_norm = true};

using Seen = std::map<std::pair<Point, int>, std::vector<double>>;

// What a visitor sees, by point and layer, in the order of the batch; on the way it changes rows at three points.
template <class Visit>
Seen seen_by(std::size_t positions, bool changes, Visit&& visit) {
  Seen all;
  visit([&](Point point, int layer, MatrixView<double> rows, std::span<const int> where) {
    if (changes && ((point == Point::residual && layer == 0) || (point == Point::conv_output && layer == 0) ||
                    (point == Point::b && layer == 1) || (point == Point::angles && layer == 0)))
      for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
        if (where[static_cast<std::size_t>(i)] % 3 == 0)
          for (double& x : rows.row(i)) x = 1.5 * x + 0.01;
    const auto columns = static_cast<std::size_t>(rows.cols());
    auto& values = all[{point, layer}];
    values.resize(positions * columns);
    for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
      std::copy_n(rows.row(i).begin(), columns,
                  values.begin() + static_cast<std::ptrdiff_t>(where[static_cast<std::size_t>(i)]) * rows.cols());
  });
  return all;
}

// Of sequences of different lengths in several tiles; absent: points that the mixer has not.
template <Config config, class Mixer>
void check_visits(int absent) {
  constexpr int batch = 37, length = 21;
  MambaForComposite<config, support::Backend, double, Mixer> gpu({.n_layers = 2, .seed = 3});
  MambaForComposite<config, Cpu, double, Mixer> cpu({.n_layers = 2, .seed = 3});
  const auto ids = support::random_tokens(batch * length, 11, 1), labels = support::random_tokens(batch, 11, 2);
  std::vector<std::int32_t> lengths;
  for (int s = 0; s < batch; ++s) lengths.push_back(1 + 7 * s % length);
  const auto same = [&](const Seen& one, const Seen& other) {
    REQUIRE(one.size() == other.size());
    for (const auto& [at, values] : other) {
      INFO("point " << static_cast<int>(at.first) << " of layer " << at.second);
      REQUIRE(one.count(at) == 1);
      CHECK(support::relative_error(one.at(at), values) < 1e-11);
    }
  };
  for (const bool changes : {false, true}) {
    std::vector<double> logits[2];
    const auto forward = [&](auto& model, std::vector<double>& to) {
      return seen_by(ids.size(), changes,
                     [&](auto&& visitor) { to = support::values(model.visit(ids, batch, visitor, lengths)); });
    };
    const Seen of_gpu = forward(gpu, logits[0]), of_cpu = forward(cpu, logits[1]);
    CHECK(of_cpu.size() == static_cast<std::size_t>(2 * (point_count - absent)));
    same(of_gpu, of_cpu);
    CHECK(support::relative_error(logits[0], logits[1]) < 1e-11);
    const auto backward = [&](auto& model) {
      return seen_by(ids.size(), changes,
                     [&](auto&& visitor) { model.visit_gradients(ids, labels, visitor, lengths); });
    };
    same(backward(gpu), backward(cpu));
    const auto expected = cpu.gradient_dict(), found = gpu.gradient_dict();
    for (const auto& [name, tensor] : expected) {
      INFO(name);
      CHECK(support::relative_error(found.at(name).values, tensor.values, 1e-9) < 1e-10);
    }
  }
}

}  // namespace

TEST_CASE("CUDA: visitors see and change at every point what they see and change on the CPU") {
  support::need_backend();
  check_visits<tiny_config, Mamba1>(3);  // Mamba-3's own
  check_visits<tiny_config, Mamba2<4, 2>>(3);
  check_visits<even_config, Mamba3<of_heads>>(1);  // the convolution's input
  check_visits<even_config, Mamba3<of_ranks>>(1);
}
