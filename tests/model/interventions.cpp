// Probes, blocking, substitution, the matrix S, on the CPU or, from cuda/, on the GPU.
#include <catch2/matchers/catch_matchers_string.hpp>

#include "support/parity.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config composite_config{};
inline constexpr Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 5};

template <class Model>
void check_reference(const char* name) {
  const auto file = support::reference(name);
  INFO(name);
  const auto target = support::tokens(file, "target_ids"), reference = support::tokens(file, "reference_ids"),
             key = support::tokens(file, "key_position");
  const int batch = static_cast<int>(file.tensors().at("target_ids").shape[0]),
            length = static_cast<int>(file.tensors().at("target_ids").shape[1]);
  Model model({.n_layers = support::layers_of(file), .gamma = 1.0});
  model.load_state_dict(support::tensors<float>(file, "param."));
  std::vector<std::uint8_t> anchors(target.size()), downstream(target.size());
  for (int i = 0; i < batch * length; ++i) {
    const int from_key = i % length - key[static_cast<std::size_t>(i / length)];
    anchors[static_cast<std::size_t>(i)] = from_key >= 0 && from_key <= 2;
    downstream[static_cast<std::size_t>(i)] = from_key > 0;
  }
  const auto error = [&](const auto& logits, const char* tensor) {
    return support::relative_error(support::values(logits), file.tensor<double>(tensor).values);
  };
  CHECK(error(model(target, batch), "logits") < 2e-6);
  CHECK(error(model.blocked(target, batch, anchors), "logits_blocked") < 2e-6);
  CHECK(error(model.substituted(target, reference, batch, downstream), "logits_substituted") < 2e-6);
}

// y = S u + D u from the activations themselves, for every channel or head.
template <class Model>
void check_matrix() {
  using A = typename Model::Architecture;
  constexpr bool mamba1 = std::is_same_v<typename A::Mixer, Mamba1>;
  Model model({.n_layers = 2, .seed = 3});
  const auto ids = support::random_tokens(9, 11, 5);
  const auto u = model.activations(Point::conv_output, ids, 1), y = model.activations(Point::scan_output, ids, 1),
             delta = model.activations(Point::delta, ids, 1);
  for (int layer = 0; layer < 2; ++layer) {
    const auto matrices = ssm_matrices(model, ids, layer);
    const auto skip = model.state_dict().at("backbone.layers." + std::to_string(layer) + ".mixer.D").values;
    const auto l = static_cast<std::size_t>(layer);
    const std::ptrdiff_t per_matrix = y[l].cols() / static_cast<std::ptrdiff_t>(matrices.size());
    for (std::ptrdiff_t e = 0; e < y[l].cols(); ++e) {
      const auto m = static_cast<std::size_t>(e / per_matrix);
      for (int i = 0; i < 9; ++i) {
        double sum = skip[m] * u[l](i, e);
        // Mamba-1's S holds delta_j, Mamba-2's does not (specification, sections 2 and 7).
        for (int j = 0; j < 9; ++j)
          sum += matrices[m](i, j) * u[l](j, e) * (mamba1 ? 1.0 : delta[l](j, static_cast<std::ptrdiff_t>(m)));
        CHECK(std::abs(sum - y[l](i, e)) < 1e-12);
        for (int j = i + 1; j < 9; ++j) CHECK(matrices[m](i, j) == 0);
      }
    }
  }
}

}  // namespace

TEST_CASE("blocking and substitution reproduce the reference") {
  support::need_backend();
  check_reference<MambaForComposite<composite_config, support::Backend>>("interventions_mamba1");
  check_reference<MambaForComposite<composite_config, support::Backend, Mamba2<>>>("interventions_mamba2");
}

TEST_CASE("the scan's output is S times its input plus the skip") {
  support::need_backend();
  check_matrix<MambaForComposite<tiny_config, support::Backend, double>>();
  check_matrix<MambaForComposite<tiny_config, support::Backend, double, Mamba2<4, 2>>>();
}

TEST_CASE("the downstream reading takes exactly S's entries behind the last masked row") {
  support::need_backend();
  const auto check = [](auto& model) {
    const auto ids = support::random_tokens(8, 11, 5);
    const std::vector<std::uint8_t> mask{0, 1, 1, 1, 0, 0, 0, 0};
    const std::vector<int> last_layer{1};
    // The last layer's output at the last token, by S without the masked columns.
    const auto matrices = ssm_matrices(model, ids, 1);
    const auto u = model.activations(Point::conv_output, ids, 1)[1],
               y = model.activations(Point::scan_output, ids, 1)[1], delta = model.activations(Point::delta, ids, 1)[1];
    const std::ptrdiff_t per_matrix = y.cols() / static_cast<std::ptrdiff_t>(matrices.size());
    constexpr bool mamba1 =
        std::is_same_v<typename std::remove_reference_t<decltype(model)>::Architecture::Mixer, Mamba1>;
    const auto expected =
        model.visit(ids, 1, [&](Point point, int layer, MatrixView<double> rows, std::span<const int>) {
          if (point != Point::scan_output || layer != 1) return;
          for (std::ptrdiff_t e = 0; e < rows.cols(); ++e) {
            const std::ptrdiff_t m = e / per_matrix;
            for (int i = 4; i < 8; ++i)
              for (int j = 1; j <= 3; ++j)
                rows(i, e) -= matrices[static_cast<std::size_t>(m)](i, j) * u(j, e) * (mamba1 ? 1.0 : delta(j, m));
          }
        });
    const auto found = model.blocked(ids, 1, mask, last_layer, Reading::downstream);
    CHECK(support::relative_error(support::values(found), support::values(expected)) < 1e-12);
  };
  MambaForComposite<tiny_config, support::Backend, double> one({.n_layers = 2, .seed = 3});
  check(one);
  MambaForComposite<tiny_config, support::Backend, double, Mamba2<8>> two({.n_layers = 2, .seed = 3});
  check(two);
}

TEST_CASE("interventions on some layers, on none, on longer sequences than a chunk") {
  support::need_backend();
  const auto check = [](auto& model) {
    constexpr int length = 150;
    const auto ids = support::random_tokens(2 * length, 11, 5), reference = support::random_tokens(2 * length, 11, 6);
    std::vector<std::uint8_t> none(ids.size()), all(ids.size(), 1), some(ids.size());
    for (std::size_t i = 0; i < some.size(); ++i) some[i] = i % 7 == 0;
    const auto plain = support::values(model(ids, 2));
    const auto differs = [&](const auto& logits) { return support::relative_error(support::values(logits), plain); };
    const std::vector<int> first{0}, second{1}, both{1, 0};
    CHECK(differs(model.blocked(ids, 2, none)) < 1e-14);
    CHECK(differs(model.blocked(ids, 2, some)) > 1e-6);
    CHECK(differs(model.blocked(ids, 2, some, both)) == differs(model.blocked(ids, 2, some)));
    CHECK(differs(model.blocked(ids, 2, some, first)) != differs(model.blocked(ids, 2, some, second)));
    CHECK(differs(model.substituted(ids, reference, 2, none)) < 1e-14);
    CHECK(differs(model.substituted(ids, ids, 2, all)) < 1e-14);
    CHECK(differs(model.substituted(ids, reference, 2, some, first)) > 1e-6);
    // Behind a masked last row there is nothing to cut.
    std::vector<std::uint8_t> last(ids.size());
    last[length - 1] = last[2 * length - 1] = 1;
    CHECK(differs(model.blocked(ids, 2, last, {}, Reading::downstream)) < 1e-14);
    // A single masked row is the same in both readings.
    std::vector<std::uint8_t> single(ids.size());
    single[140] = single[length + 130] = 1;
    CHECK(support::values(model.blocked(ids, 2, single)) ==
          support::values(model.blocked(ids, 2, single, {}, Reading::downstream)));
    CHECK(differs(model.blocked(ids, 2, single)) > 1e-9);
    CHECK_THROWS_WITH(model.blocked(ids, 2, std::vector<std::uint8_t>(3)), ContainsSubstring("mask has 3 elements"));
    CHECK_THROWS_WITH(model.blocked(ids, 2, some, std::vector<int>{2}), ContainsSubstring("layer 2 is not in 0..1"));
    CHECK_THROWS_WITH(model.substituted(ids, support::random_tokens(10, 11, 5), 2, some),
                      ContainsSubstring("not as many"));
  };
  MambaForComposite<tiny_config, support::Backend, double> one({.n_layers = 2, .seed = 3});
  check(one);
  MambaForComposite<tiny_config, support::Backend, double, Mamba2<8>> two({.n_layers = 2, .seed = 3});
  check(two);
}

TEST_CASE("a visitor sees every point of every layer and may change it") {
  support::need_backend();
  MambaForComposite<tiny_config, support::Backend, double> model({.n_layers = 2, .seed = 3});
  constexpr int batch = 30, length = 5;
  const auto ids = support::random_tokens(batch * length, 11, 5);
  const std::vector<std::int32_t> lengths(batch, 4);
  std::vector<int> calls(point_count);
  std::vector<int> seen(batch * length);
  const auto plain = model(ids, batch, lengths);
  const auto visited = model.visit(
      ids, batch,
      [&](Point point, int layer, MatrixView<double> rows, std::span<const int> where) {
        calls[static_cast<std::size_t>(point)] += layer == 0 ? 1 : 100;
        if (point == Point::delta && layer == 1) {
          CHECK(rows.cols() == 16);
          for (const int w : where) ++seen[static_cast<std::size_t>(w)];
        }
      },
      lengths);
  CHECK(support::values(visited) == support::values(plain));
  for (const Point own : {Point::log_decay, Point::trapezoid, Point::angles}) {  // Mamba-3's
    int& of_point = calls[static_cast<std::size_t>(own)];
    CHECK(of_point == 0);
    of_point = calls[0];
  }
  for (const int n : calls) CHECK(n == calls[0]);
  for (int i = 0; i < batch * length; ++i) CHECK(seen[static_cast<std::size_t>(i)] == (i % length < 4));

  // Without the block's output the last layer passes the residual stream on.
  const auto changed =
      model.visit(ids, batch, [](Point point, int layer, MatrixView<double> rows, std::span<const int>) {
        if (point == Point::gated_output && layer == 1)
          for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
            for (double& x : rows.row(i)) x = 0;
      });
  auto dict = model.state_dict();
  for (double& x : dict.at("backbone.layers.1.mixer.out_proj.weight").values) x = 0;
  model.load_state_dict(dict);
  CHECK(support::relative_error(support::values(changed), support::values(model(ids, batch))) < 1e-14);
}

TEST_CASE("a visitor of the backward pass sees the gradients") {
  support::need_backend();
  MambaForComposite<tiny_config, support::Backend, double> model({.n_layers = 2, .seed = 3});
  const auto ids = support::random_tokens(3 * 5, 11, 5), labels = support::random_tokens(3, 11, 6);
  std::vector<double> gradient;  // of layer 1's delta at sequence 1, time 2
  const double loss = model.visit_gradients(
      ids, labels, [&](Point point, int layer, MatrixView<double> rows, std::span<const int> where) {
        if (point == Point::delta && layer == 1)
          for (std::size_t i = 0; i < where.size(); ++i)
            if (where[i] == 7)
              gradient.assign(rows.row(static_cast<std::ptrdiff_t>(i)).begin(),
                              rows.row(static_cast<std::ptrdiff_t>(i)).end());
      });
  CHECK(loss == model.loss_and_gradients(ids, labels));
  REQUIRE(gradient.size() == 16);
  const auto loss_with = [&](double change) {
    const auto logits =
        model.visit(ids, 3, [&](Point point, int layer, MatrixView<double> rows, std::span<const int> where) {
          if (point == Point::delta && layer == 1)
            for (std::size_t i = 0; i < where.size(); ++i)
              if (where[i] == 7) rows(static_cast<std::ptrdiff_t>(i), 3) += change;
        });
    double sum = 0;
    for (int s = 0; s < 3; ++s) {
      double z = 0;
      for (int v = 0; v < 11; ++v) z += std::exp(logits(s, v));
      sum += (std::log(z) - logits(s, labels[static_cast<std::size_t>(s)])) / 3;
    }
    return sum;
  };
  CHECK(std::abs((loss_with(1e-5) - loss_with(-1e-5)) / 2e-5 - gradient[3]) < 1e-8);
}
