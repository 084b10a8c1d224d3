// What a trained model's parts look like from outside: the state-space model as a matrix, the convolution's taps, the
// answers of its lower layers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <mamba/math/activation.hpp>
#include <mamba/model/model.hpp>

namespace mamba {

namespace detail {

// Mamba-3's, one for each head, rank of its outputs and rank of its inputs.
template <class A>
std::vector<Matrix<double>> rotary_matrices(Model<A>& model, std::span<const std::int32_t> ids, int layer) {
  using Mixer = network::MixerOf<A>;
  constexpr std::ptrdiff_t H = Mixer::H, G = Mixer::G, N = Mixer::N, R = Mixer::R, Na = Mixer::Na;
  constexpr std::ptrdiff_t pair_stride = Mixer::multiple ? 1 : 2, second = Mixer::multiple ? N / 2 : 1;
  const auto at = [&](Point point) { return model.activations(point, ids, 1)[static_cast<std::size_t>(layer)]; };
  const auto delta = at(Point::delta), log_decay = at(Point::log_decay), mu = at(Point::trapezoid),
             angles = at(Point::angles);
  const auto dict = model.state_dict();
  const std::string mixer = "backbone.layers." + std::to_string(layer) + ".mixer.";
  const auto length = static_cast<std::ptrdiff_t>(ids.size());

  // Keys or queries (length, R N) of a head.
  const auto turned = [&](const auto& raw, const std::string& name, std::ptrdiff_t h) {
    const auto &norm = dict.at(mixer + name + "_norm.weight").values, &bias = dict.at(mixer + name + "_bias").values;
    Matrix<double> rows(length, R * N);
    for (std::ptrdiff_t t = 0; t < length; ++t)
      for (std::ptrdiff_t r = 0; r < R; ++r) {
        const std::ptrdiff_t first = (r * G + h * G / H) * N;
        double squares = 0;
        for (std::ptrdiff_t n = 0; n < N; ++n) squares += std::pow(static_cast<double>(raw(t, first + n)), 2);
        const double rho = 1 / std::sqrt(squares / double{N} + math::norm_epsilon);
        for (std::ptrdiff_t n = 0; n < N; ++n)
          rows(t, r * N + n) =
              static_cast<double>(raw(t, first + n)) * rho * static_cast<double>(norm[static_cast<std::size_t>(n)]) +
              static_cast<double>(bias[static_cast<std::size_t>((h * R + r) * N + n)]);
        for (std::ptrdiff_t i = 0; i < Na; ++i) {
          double &a = rows(t, r * N + pair_stride * i), &b = rows(t, r * N + pair_stride * i + second);
          const auto angle = static_cast<double>(angles(t, h * Na + i));
          const double sine = std::sin(angle), cosine = std::cos(angle), was = a;
          a = cosine * a - sine * b, b = sine * was + cosine * b;
        }
      }
    return rows;
  };

  std::vector<Matrix<double>> matrices(static_cast<std::size_t>(H * R * R), Matrix<double>(length, length));
  const auto b = at(Point::b), c = at(Point::c);
  for (std::ptrdiff_t h = 0; h < H; ++h) {
    const auto keys = turned(b, "B", h), queries = turned(c, "C", h);
    const auto step = [&](std::ptrdiff_t t) { return static_cast<double>(delta(t, h)); };
    const auto weight = [&](std::ptrdiff_t t) { return static_cast<double>(mu(t, h)); };
    for (std::ptrdiff_t i = 0; i < length; ++i) {
      double elapsed = 0;
      for (std::ptrdiff_t j = i; j >= 0; --j) {
        const double enters = weight(j) * step(j) + (j < i ? (1 - weight(j + 1)) * step(j + 1) : 0);
        for (std::ptrdiff_t pair = 0; pair < R * R; ++pair) {
          double sum = 0;
          for (std::ptrdiff_t n = 0; n < N; ++n) sum += queries(i, pair / R * N + n) * keys(j, pair % R * N + n);
          matrices[static_cast<std::size_t>(h * R * R + pair)](i, j) = std::exp(elapsed) * enters * sum;
        }
        elapsed += static_cast<double>(log_decay(j, h));
      }
    }
  }
  return matrices;
}

}  // namespace detail

// The lower triangular matrix S (length, length) by which a layer's state-space model maps its input to its output
// (without the skip), for one sequence ids (length):
//   Mamba-1, one for each channel e: S[i,j] = delta_j sum over n of C_i B_j exp(A[e,n] sum over s in j+1..i of delta_s)
//   Mamba-2, one for each head h:    S[i,j] = C_i . B_j exp(A[h] sum over s in j+1..i of delta_s)
//   Mamba-3, one for each head h, rank r of its outputs and rank r' of its inputs, number (h R + r) R + r':
//     S[i,j] = (what v_j enters by up to token i) q_ir . k_jr' exp(sum over s in j+1..i of the decays' logarithms)
// (specification, sections 2, 7 and 14.4: the S of Mamba-1 and of Mamba-3 hold step sizes, Mamba-2's does not). Throws
// Error on bad ids or layers.
template <class A>
std::vector<Matrix<double>> ssm_matrices(Model<A>& model, std::span<const std::int32_t> ids, int layer) {
  using Mixer = network::MixerOf<A>;
  require(layer >= 0 && layer < model.n_layers(), "layer ", layer, " is not in 0..", model.n_layers() - 1);
  if constexpr (requires { Mixer::Na; }) {
    return detail::rotary_matrices(model, ids, layer);
  } else {
    const auto at = [&](Point point) { return model.activations(point, ids, 1)[static_cast<std::size_t>(layer)]; };
    const auto b = at(Point::b), c = at(Point::c), delta = at(Point::delta);
    const auto a_log = model.state_dict().at("backbone.layers." + std::to_string(layer) + ".mixer.A_log").values;
    const auto length = static_cast<std::ptrdiff_t>(ids.size());
    constexpr int N = A::config.d_state;
    const auto rate = [&](std::size_t k) { return -std::exp(static_cast<double>(a_log[k])); };

    std::vector<Matrix<double>> matrices(static_cast<std::size_t>(delta.cols()), Matrix<double>(length, length));
    for (std::ptrdiff_t m = 0; m < delta.cols(); ++m)  // channels or heads
      for (std::ptrdiff_t i = 0; i < length; ++i) {
        double elapsed = 0;
        for (std::ptrdiff_t j = i; j >= 0; --j) {
          double sum = 0;
          if constexpr (Mixer::rate_per_state) {
            for (int n = 0; n < N; ++n)
              sum += static_cast<double>(c(i, n)) * static_cast<double>(b(j, n)) *
                     std::exp(rate(static_cast<std::size_t>(m * N + n)) * elapsed);
            sum *= static_cast<double>(delta(j, m));
          } else {
            const std::ptrdiff_t first = m * Mixer::G / Mixer::H * N;
            for (int n = 0; n < N; ++n)
              sum += static_cast<double>(c(i, first + n)) * static_cast<double>(b(j, first + n));
            sum *= std::exp(rate(static_cast<std::size_t>(m)) * elapsed);
          }
          matrices[static_cast<std::size_t>(m)](i, j) = sum;
          elapsed += static_cast<double>(delta(j, m));
        }
      }
    return matrices;
  }
}

// The logit lens (specification, section 11.4): the last token's logits, (batch, vocab_size), of a model that ends
// before layer 0, 1, ..: the residual stream there takes the last norm and the head, as it does behind the last layer.
// The last of the n_layers + 1 matrices holds the model's own. ids (batch, length). Throws Error as visit() does.
template <class A>
std::vector<Matrix<double>> logit_lens(Model<A>& model, std::span<const std::int32_t> ids, int batch) {
  constexpr int D = A::config.d_model, V = A::config.vocab_size;
  std::vector<Matrix<double>> logits;
  const auto dict = model.state_dict();
  const auto own = dict.find("lm_head.weight");
  const auto& head = own != dict.end() ? own->second.values : dict.at("backbone.embedding.weight").values;
  const auto& scale = dict.at("backbone.norm_f.weight").values;
  std::vector<Matrix<double>> streams(static_cast<std::size_t>(model.n_layers()));  // of the last tokens
  const auto length = static_cast<int>(ids.size()) / (std::max)(batch, 1);
  const auto last = model.visit(
      ids, batch, [&](Point point, int layer, MatrixView<typename A::Scalar> rows, std::span<const int> where) {
        if (point != Point::residual) return;
        auto& stream = streams[static_cast<std::size_t>(layer)];
        if (stream.rows() == 0) stream = Matrix<double>(batch, D);
        for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
          if (const int at = where[static_cast<std::size_t>(i)]; at % length == length - 1)
            for (int d = 0; d < D; ++d) stream(at / length, d) = static_cast<double>(rows(i, d));
      });
  for (Matrix<double>& stream : streams) {
    Matrix<double>& of_layer = logits.emplace_back(batch, V);
    for (int s = 0; s < batch; ++s) {
      double squares = 0;
      for (int d = 0; d < D; ++d) squares += stream(s, d) * stream(s, d);
      const double rho = 1 / std::sqrt(squares / D + math::norm_epsilon);
      for (int d = 0; d < D; ++d) stream(s, d) *= rho * static_cast<double>(scale[static_cast<std::size_t>(d)]);
      for (int v = 0; v < V; ++v)
        for (int d = 0; d < D; ++d)
          of_layer(s, v) += stream(s, d) * static_cast<double>(head[static_cast<std::size_t>(v * D + d)]);
    }
  }
  Matrix<double>& at_end = logits.emplace_back(batch, V);
  for (int s = 0; s < batch; ++s)
    for (int v = 0; v < V; ++v) at_end(s, v) = static_cast<double>(last(s, v));
  return logits;
}

// The cosines between the tap vectors w[:, k] of a convolution's weight (channels, taps), (taps, taps) (the paper's
// appendix). Zero where a tap vector is zero. Throws Error where the weight is not of that many taps.
template <class Scalar>
Matrix<double> tap_cosines(std::span<const Scalar> weight, int taps) {
  require(taps >= 1 && weight.size() % static_cast<std::size_t>(taps) == 0, "a weight of ", weight.size(),
          " numbers has no ", taps, " taps");
  Matrix<double> products(taps, taps), cosines(taps, taps);
  for (std::size_t e = 0; e < weight.size(); e += static_cast<std::size_t>(taps))
    for (int k = 0; k < taps; ++k)
      for (int l = 0; l < taps; ++l)
        products(k, l) += static_cast<double>(weight[e + static_cast<std::size_t>(k)]) *
                          static_cast<double>(weight[e + static_cast<std::size_t>(l)]);
  for (int k = 0; k < taps; ++k)
    for (int l = 0; l < taps; ++l)
      if (const double norm = std::sqrt(products(k, k) * products(l, l)); norm > 0)
        cosines(k, l) = products(k, l) / norm;
  return cosines;
}

// Those of a layer's convolution, (d_conv, d_conv). Throws Error where there is no such layer.
template <class A>
Matrix<double> conv_tap_cosines(const Model<A>& model, int layer) {
  static_assert(network::MixerOf<A>::conv_channels > 0,
                "mamba: this mixer has no convolution whose taps could be compared");
  require(layer >= 0 && layer < model.n_layers(), "layer ", layer, " is not in 0..", model.n_layers() - 1);
  const auto weight = model.state_dict().at("backbone.layers." + std::to_string(layer) + ".mixer.conv1d.weight");
  return tap_cosines<typename A::Scalar>(weight.values, A::config.d_conv);
}

}  // namespace mamba
