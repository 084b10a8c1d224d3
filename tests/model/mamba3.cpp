// Mamba-3 beside itself: gradients, cuts of a sequence, interventions, probes, files.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <mamba/composite.hpp>
#include <mamba/language_model.hpp>

#include "support/gradients.hpp"
#include "support/parity.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;
using support::Backend;

namespace {

inline constexpr Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 6};
[[maybe_unused]] inline constexpr Config odd_config{.vocab_size = 7, .d_model = 15, .d_state = 36, .expand = 3};
inline constexpr Mamba3Config of_heads{.headdim = 4, .ngroups = 2, .rotates_all = true},
    of_norm{.headdim = 8, .output_norm = true};
inline constexpr Mamba3Config of_ranks{.headdim = 8, .rank = 3},
    of_all{.headdim = 4, .ngroups = 2, .rank = 2, .rotates_all = true, .output_norm = true, .softplus_rate = true},
    of_one_rank{.rank = 1};
[[maybe_unused]] inline constexpr Mamba3Config of_odd{.headdim = 15}, of_old{.softplus_rate = true},
    of_many_ranks{.headdim = 4, .rank = 65};

template <class Model>
void check_gradients(int batch, int length, const std::vector<std::int32_t>& lengths = {}) {
  INFO("batch " << batch << ", length " << length);
  Model model({.n_layers = 2, .seed = 3});
  const auto ids = support::random_tokens(static_cast<std::size_t>(batch * length), Model::config.vocab_size, 5);
  const auto labels = support::random_tokens(static_cast<std::size_t>(batch), Model::config.vocab_size, 6);
  support::check_gradients(model, [&] { return model.loss_and_gradients(ids, labels, lengths); });
}
template <Config config, class... Policies>
using Double = MambaForComposite<config, double, Backend, Policies...>;

// The last logits of every length up to 129: whole, token by token, in pieces of several lengths.
//
// All rows of a way are compared as one vector. A row by itself has logits that nearly cancel now and then, and its
// error in float says more of the processor than of the code: of 40 seeds the worst row is off by 7e-7 to 5e-6, all
// rows together by 3e-7 to 7e-7.
template <class Model>
void check_cuts(double bound) {
  Model model({.n_layers = 2, .seed = 3});
  constexpr int longest = 129;
  const auto ids = support::random_tokens(longest, Model::config.vocab_size, 5);
  const std::span<const std::int32_t> all(ids);
  const auto whole = model.logits(ids, 1);
  struct Rows {
    std::vector<double> found, expected;
  };
  const auto add = [&](Rows& rows, std::size_t tokens, const auto& logits) {
    const auto row = whole.row(static_cast<std::ptrdiff_t>(tokens) - 1);
    rows.found.insert(rows.found.end(), logits.begin(), logits.end());
    rows.expected.insert(rows.expected.end(), row.begin(), row.end());
  };
  Rows by_token, at_once;
  auto by_ones = model.initial_state(1);
  for (std::size_t length = 1; length <= longest; ++length) {
    add(by_token, length, support::values(model.step(all.subspan(length - 1, 1), by_ones)));
    auto state = model.initial_state(1);
    add(at_once, length, support::values(model.prefill(all.first(length), 1, state)));
  }
  CHECK(support::relative_error(by_token.found, by_token.expected) < bound);
  CHECK(support::relative_error(at_once.found, at_once.expected) < bound);
  for (const std::size_t piece : {std::size_t{7}, std::size_t{63}, std::size_t{64}, std::size_t{65}}) {
    INFO("pieces of " << piece);
    Rows rows;
    auto state = model.initial_state(1);
    for (std::size_t first = 0; first < longest; first += piece) {
      const std::size_t count = std::min(piece, longest - first);
      add(rows, first + count, support::values(model.prefill(all.subspan(first, count), 1, state)));
    }
    CHECK(support::relative_error(rows.found, rows.expected) < bound);
    // Where a sequence ends the states are the same, in whatever cuts.
    CHECK(support::relative_error(state.state_tensor().values, by_ones.state_tensor().values) < bound);
    CHECK(support::relative_error(state.history_tensor().values, by_ones.history_tensor().values) < bound);
  }
}

// y = S v + D v from the activations themselves, for every head and its ranks, over chunks; and without the columns
// that blocking takes away, in either reading.
template <class Model, int length>
void check_matrix() {
  using Mixer = network::MixerOf<typename Model::Architecture>;
  constexpr int H = Mixer::H, P = Mixer::P, R = Mixer::R;
  Model model({.n_layers = 2, .seed = 3});
  const auto ids = support::random_tokens(length, Model::config.vocab_size, 5);
  const auto xbc = model.activations(Point::conv_output, ids, 1), y = model.activations(Point::scan_output, ids, 1);
  const auto dict = model.state_dict();
  // sum over j of S[t, j] v_j, for the columns that are wanted, to output r of channel p.
  const auto read = [&](const auto& matrices, std::size_t layer, int t, int h, int r, int p, auto&& wanted) {
    double sum = 0;
    for (int of = 0; of < R; ++of)
      for (int j = 0; j <= t; ++j) {
        if (!wanted(j)) continue;
        double v = xbc[layer](j, h * P + p);
        if constexpr (Mixer::multiple)
          v *= dict.at("backbone.layers." + std::to_string(layer) + ".mixer.mimo_x")
                   .values[static_cast<std::size_t>((h * R + of) * P + p)];
        sum +=
            (matrices[static_cast<std::size_t>((h * R + r) * R + of)](t, j) +
             (j == t && of == r
                  ? dict.at("backbone.layers." + std::to_string(layer) + ".mixer.D").values[static_cast<std::size_t>(h)]
                  : 0)) *
            v;
      }
    return sum;
  };
  const auto each = [&](auto&& f) {
    for (int h = 0; h < H; ++h)
      for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; p += 3) f(h, r, p);
  };
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const auto matrices = ssm_matrices(model, ids, static_cast<int>(layer));
    REQUIRE(matrices.size() == static_cast<std::size_t>(H * R * R));
    double off = 0, above = 0;
    each([&](int h, int r, int p) {
      for (int t = 0; t < length; t += 5)
        off = support::larger(off, std::abs(read(matrices, layer, t, h, r, p, [](int) { return true; }) -
                                            y[layer](t, (h * R + r) * P + p)));
    });
    CHECK(off < 1e-12);
    for (const auto& matrix : matrices)
      for (int i = 0; i < length; ++i)
        for (int j = i + 1; j < length; ++j) above = support::larger(above, std::abs(matrix(i, j)));
    CHECK(above == 0);
  }
  // Of the last layer, in which the logits come from the last row.
  std::vector<std::uint8_t> mask(length);
  for (int i = 1; i < length; i += 4) mask[static_cast<std::size_t>(i)] = 1;
  mask[length - 1] = 0;
  const std::vector<int> last_layer{1};
  const auto matrices = ssm_matrices(model, ids, 1);
  const auto expected = model.visit(ids, 1, [&](Point point, int layer, MatrixView<double> rows, std::span<const int>) {
    if (point == Point::scan_output && layer == 1)
      for (int h = 0; h < H; ++h)
        for (int r = 0; r < R; ++r)
          for (int p = 0; p < P; ++p)
            rows(length - 1, (h * R + r) * P + p) -=
                read(matrices, 1, length - 1, h, r, p, [&](int j) { return mask[static_cast<std::size_t>(j)] != 0; });
  });
  for (const Reading reading : {Reading::strict, Reading::downstream})
    CHECK(support::relative_error(support::values(model.blocked(ids, 1, mask, last_layer, reading)),
                                  support::values(expected)) < 1e-12);
}

}  // namespace

TEST_CASE("Mamba-3: gradients of all combinations with positions and heads") {
  check_gradients<Double<tiny_config, Mamba3<>>>(3, 8);
  check_gradients<Double<tiny_config, Mamba3<of_heads>, LearnedPosition<9>>>(3, 9, {9, 1, 4});
  check_gradients<Double<tiny_config, Mamba3<of_norm>, SinusoidalPosition>>(2, 3);
  check_gradients<Double<tiny_config, Mamba3<of_ranks>, UntiedHead>>(2, 5);
  check_gradients<Double<tiny_config, Mamba3<of_all>, LearnedPosition<9>, UntiedHead>>(3, 9, {9, 1, 4});
  check_gradients<Double<tiny_config, Mamba3<of_one_rank>, SinusoidalPosition, UntiedHead>>(1, 1);
#ifndef MAMBA_TEST_FEW_MODELS
  check_gradients<Double<tiny_config, Mamba3<of_old>>>(2, 70);
  check_gradients<Double<odd_config, Mamba3<of_odd>>>(2, 66);     // over chunks
  check_gradients<Double<tiny_config, Mamba3<of_ranks>>>(1, 45);  // 21 tokens of three ranks each
  check_gradients<Double<tiny_config, Mamba3<of_all>>>(2, 70, {70, 33});
  check_gradients<Double<tiny_config, Mamba3<of_many_ranks>>>(1, 3);  // a token is more than a chunk
#endif
}

TEST_CASE("Mamba-3: gamma's rule zeroes biases, draws projections, leaves the rest") {
  MambaForComposite<tiny_config, Backend, Mamba3<of_all>> model({.n_layers = 1, .gamma = 0.5, .seed = 3});
  const auto dict = model.state_dict();
  const auto all = [&](const char* name, float value) {
    const auto& values = dict.at(std::string("backbone.layers.0.mixer.") + name).values;
    INFO(name);
    CHECK(std::all_of(values.begin(), values.end(), [&](float x) { return x == value; }));
  };
  for (const char* name : {"dt_bias", "B_bias", "C_bias"}) all(name, 0);
  for (const char* name : {"D", "B_norm.weight", "C_norm.weight", "norm.weight", "mimo_z"}) all(name, 1);
  for (const char* name : {"mimo_x", "mimo_o"}) all(name, 0.5F);
  CHECK(dict.at("backbone.layers.0.mixer.B_bias").shape == std::vector<std::int64_t>{4, 2, 6});
  // Rows of z, x, B and C of two ranks and two groups, steps, rates, weights and three angles.
  CHECK(dict.at("backbone.layers.0.mixer.in_proj.weight").shape == std::vector<std::int64_t>{16 + 16 + 48 + 12 + 3, 8});
  MambaForComposite<tiny_config, Backend, Mamba3<of_all>> kept(
      {.n_layers = 1, .gamma = 0.5, .gamma_except = {.key_bias = true}, .seed = 3});
  CHECK(kept.state_dict().at("backbone.layers.0.mixer.B_bias").values[5] == 1);
  CHECK(kept.state_dict().at("backbone.layers.0.mixer.dt_bias").values[1] == 0);
}

TEST_CASE("Mamba-3: step by step, in pieces of any cut, and whole are the same for lengths of 1 to 129") {
  check_cuts<MambaLMHeadModel<tiny_config, double, Backend, Mamba3<of_heads>>>(1e-12);
  check_cuts<MambaLMHeadModel<tiny_config, Backend, Mamba3<of_norm>, LearnedPosition<129>>>(1e-6);
  check_cuts<MambaLMHeadModel<tiny_config, double, Backend, Mamba3<of_ranks>, UntiedHead>>(1e-12);
  check_cuts<MambaLMHeadModel<tiny_config, Backend, Mamba3<of_all>>>(1e-6);
}

TEST_CASE("Mamba-3: the recurrence's output is S times its input plus the skip, and blocking takes its columns") {
  check_matrix<Double<tiny_config, Mamba3<of_heads>>, 140>();
  check_matrix<Double<tiny_config, Mamba3<of_ranks>>, 50>();
#ifndef MAMBA_TEST_FEW_MODELS
  check_matrix<Double<tiny_config, Mamba3<>>, 9>();
  check_matrix<Double<tiny_config, Mamba3<of_all>>, 70>();
#endif
}

TEST_CASE("Mamba-3: interventions in all, some and no places") {
  const auto check = [](auto& model) {
    constexpr int length = 90;
    const auto ids = support::random_tokens(2 * length, 11, 5), reference = support::random_tokens(2 * length, 11, 6);
    std::vector<std::uint8_t> none(ids.size()), all(ids.size(), 1), some(ids.size());
    for (std::size_t i = 0; i < some.size(); ++i) some[i] = i % 7 == 0;
    const auto plain = support::values(model(ids, 2));
    const auto differs = [&](const auto& logits) { return support::relative_error(support::values(logits), plain); };
    CHECK(differs(model.blocked(ids, 2, none)) < 1e-14);
    CHECK(differs(model.blocked(ids, 2, some)) > 1e-6);
    CHECK(differs(model.blocked(ids, 2, some, {}, Reading::downstream)) > 1e-6);
    CHECK(differs(model.substituted(ids, reference, 2, none)) < 1e-14);
    CHECK(differs(model.substituted(ids, ids, 2, all)) < 1e-14);
    CHECK(differs(model.substituted(ids, reference, 2, some)) > 1e-6);
    std::vector<std::uint8_t> single(ids.size());
    single[80] = single[length + 70] = 1;
    CHECK(support::values(model.blocked(ids, 2, single)) ==
          support::values(model.blocked(ids, 2, single, {}, Reading::downstream)));
    CHECK(differs(model.blocked(ids, 2, single)) > 1e-9);
  };
  Double<tiny_config, Mamba3<of_heads>> one({.n_layers = 2, .seed = 3});
  check(one);
  Double<tiny_config, Mamba3<of_ranks>> several({.n_layers = 2, .seed = 3});
  check(several);
}

TEST_CASE("Mamba-3: a visitor sees its points and their gradients, and may change them") {
  using Model = Double<tiny_config, Mamba3<of_heads>>;
  Model model({.n_layers = 2, .seed = 3});
  constexpr int batch = 3, length = 5;
  const auto ids = support::random_tokens(batch * length, 11, 5), labels = support::random_tokens(batch, 11, 6);
  std::vector<int> calls(point_count);
  const auto visited =
      model.visit(ids, batch, [&](Point point, int layer, MatrixView<double> rows, std::span<const int>) {
        calls[static_cast<std::size_t>(point)] += layer == 0 ? 1 : 100;
        if (point == Point::angles) CHECK(rows.cols() == 4 * 3);
        if (point == Point::trapezoid || point == Point::log_decay || point == Point::delta) CHECK(rows.cols() == 4);
        if (point == Point::angles)
          for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
            for (const double x : rows.row(i)) CHECK(std::abs(x) <= 3.1415926535898);
      });
  CHECK(support::values(visited) == support::values(model(ids, batch)));
  for (int p = 0; p < point_count; ++p)
    CHECK(calls[static_cast<std::size_t>(p)] == (p == static_cast<int>(Point::conv_input) ? 0 : 101));

  // Gradients at each of its own points against differences.
  for (const Point at : {Point::delta, Point::log_decay, Point::trapezoid, Point::angles, Point::b, Point::c,
                         Point::conv_output, Point::scan_output}) {
    INFO("point " << static_cast<int>(at));
    double gradient = 0;
    model.visit_gradients(ids, labels,
                          [&](Point point, int layer, MatrixView<double> rows, std::span<const int> where) {
                            if (point == at && layer == 0)
                              for (std::size_t i = 0; i < where.size(); ++i)
                                if (where[i] == 7) gradient = rows(static_cast<std::ptrdiff_t>(i), 2);
                          });
    const auto loss_with = [&](double change) {
      const auto logits =
          model.visit(ids, batch, [&](Point point, int layer, MatrixView<double> rows, std::span<const int> where) {
            if (point == at && layer == 0)
              for (std::size_t i = 0; i < where.size(); ++i)
                if (where[i] == 7) rows(static_cast<std::ptrdiff_t>(i), 2) += change;
          });
      double sum = 0;
      for (int s = 0; s < batch; ++s) {
        double z = 0;
        for (int v = 0; v < 11; ++v) z += std::exp(logits(s, v));
        sum += (std::log(z) - logits(s, labels[static_cast<std::size_t>(s)])) / batch;
      }
      return sum;
    };
    CHECK(std::abs((loss_with(1e-5) - loss_with(-1e-5)) / 2e-5 - gradient) < 1e-9);
    CHECK(gradient != 0);
  }
}

TEST_CASE("tokens that forget all cost the others no digits") {
  const auto check = [](auto& in_float, auto& in_double, int first_row, int rows) {
    auto dict = in_double.state_dict();
    for (int layer = 0; layer < 2; ++layer) {
      auto& in_proj = dict.at("backbone.layers." + std::to_string(layer) + ".mixer.in_proj.weight");
      for (int k = first_row * 8; k < (first_row + rows) * 8; ++k) in_proj.values[static_cast<std::size_t>(k)] *= 300;
    }
    in_double.load_state_dict(dict);
    StateDict<float> rounded;
    for (const auto& [name, tensor] : dict)
      rounded.emplace(name, HostTensor<float>{tensor.shape, {tensor.values.begin(), tensor.values.end()}});
    in_float.load_state_dict(rounded);
    for (auto& [name, tensor] : dict)
      tensor.values.assign(rounded.at(name).values.begin(), rounded.at(name).values.end());
    in_double.load_state_dict(dict);
    const auto ids = support::random_tokens(200, 11, 5);
    CHECK(support::relative_error(support::values(in_float.logits(ids, 1)), support::values(in_double.logits(ids, 1))) <
          3e-6);
  };
  // Rates of Mamba-3 and steps of Mamba-2 are what the input makes them.
  MambaLMHeadModel<tiny_config, Mamba3<of_heads>> third({.n_layers = 2, .seed = 3});
  MambaLMHeadModel<tiny_config, Mamba3<of_heads>, double> third_in_double({.n_layers = 2, .seed = 3});
  check(third, third_in_double, 16 + 16 + 4 * 6 + 4, 4);
  MambaLMHeadModel<tiny_config, Mamba2<4>> second({.n_layers = 2, .seed = 3});
  MambaLMHeadModel<tiny_config, Mamba2<4>, double> second_in_double({.n_layers = 2, .seed = 3});
  check(second, second_in_double, 16 + 16 + 2 * 6, 4);
}

TEST_CASE("Mamba-3: what is not finite stays so, in whatever row of a projection") {
  MambaForComposite<tiny_config, Backend, Mamba3<of_heads>> model({.n_layers = 1, .seed = 3});
  const auto ids = support::random_tokens(8, 11, 5);
  const auto sound = model.state_dict();
  const auto& shape = sound.at("backbone.layers.0.mixer.in_proj.weight").shape;
  for (std::int64_t row = 0; row < shape[0]; ++row) {
    auto dict = sound;
    dict.at("backbone.layers.0.mixer.in_proj.weight").values[static_cast<std::size_t>(row * shape[1] + 3)] =
        std::numeric_limits<float>::quiet_NaN();
    model.load_state_dict(dict);
    const auto logits = model(ids, 1);
    INFO("row " << row);
    CHECK(std::any_of(logits.data(), logits.data() + 11, [](float x) { return std::isnan(x); }));
    const auto alone = model(std::span(ids).first(1), 1);
    const std::int64_t of_rates = 16 + 16 + 4 * 6 + 4;  // which one token has no use for
    if (row < of_rates || row >= of_rates + 4)
      CHECK(std::any_of(alone.data(), alone.data() + 11, [](float x) { return std::isnan(x); }));
  }
  model.load_state_dict(sound);
  CHECK_THROWS_WITH(model.visit(ids, 1,
                                [](Point point, int, MatrixView<float> rows, std::span<const int>) {
                                  if (point == Point::angles) rows(3, 1) = std::numeric_limits<float>::quiet_NaN();
                                }),
                    ContainsSubstring("an angle was set to"));
  MambaLMHeadModel<tiny_config, Backend, Mamba3<of_heads>> decoding({.n_layers = 1, .seed = 3});
  auto state = decoding.initial_state(1);
  auto history = state.history_tensor();
  history.values[2] = std::numeric_limits<float>::infinity();
  state.restore(history, state.state_tensor(), state.positions());
  const auto logits = decoding.step(std::span(ids).first(1), state);
  CHECK(std::isnan(logits(0, 0)));
}

TEST_CASE("Mamba-3: files say what shapes do not") {
  const auto folder = support::scratch("mamba3_files");
  const auto path = folder / "model.safetensors";
  using Model = MambaForComposite<tiny_config, Backend, Mamba3<of_heads>>;
  const Model model({.n_layers = 2, .seed = 3});
  save(model, path);
  Model again({.n_layers = 2, .seed = 4});
  load(again, path);
  CHECK(again.state_dict().at("backbone.layers.1.mixer.B_bias").values ==
        model.state_dict().at("backbone.layers.1.mixer.B_bias").values);
  static constexpr Mamba3Config older{.headdim = 4, .ngroups = 2, .rotates_all = true, .softplus_rate = true};
  MambaForComposite<tiny_config, Backend, Mamba3<older>> other({.n_layers = 2});
  CHECK_THROWS_WITH(load(other, path), ContainsSubstring("softplus_rate"));
  // Of a convolution that there is not the taps do not count.
  static constexpr Config other_taps{.vocab_size = 11, .d_model = 8, .d_state = 6, .d_conv = 7};
  MambaForComposite<other_taps, Backend, Mamba3<of_heads>> same({.n_layers = 2});
  CHECK_NOTHROW(load(same, path));
  // A state goes to a file and back, and on from there.
  Model decoding({.n_layers = 2, .seed = 3});
  auto state = decoding.initial_state(2);
  const auto ids = support::random_tokens(2 * 5, 11, 5), next = support::random_tokens(2, 11, 6);
  decoding.prefill(ids, 2, state);
  save(state, folder / "state.safetensors");
  auto loaded = decoding.initial_state(2);
  load(loaded, folder / "state.safetensors");
  CHECK(support::values(decoding.step(next, loaded)) == support::values(decoding.step(next, state)));
}
