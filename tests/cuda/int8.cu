// Weights of 8 bits on the GPU: single products with what they stand for, and models beside the CPU's.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include <mamba/generate.hpp>

#include "support/cuda.hpp"
#include "support/cuda_decoding.hpp"
#include "support/grid_configs.hpp"
#include "support/primitives.hpp"

using namespace mamba;
using support::broad_config, support::odd_config, support::wide_config;

namespace {

using support::Tensor;

// A weight as it lies on the device.
template <int Out, int In>
class OnDevice {
 public:
  OnDevice(const cuda::QueuePointer& queue, const support::RowsOfInt8<Out, In>& stored)
      : values_(queue), scales_(queue) {
    values_.upload(stored.weight().value, static_cast<std::size_t>(Out) * padded(In));
    scales_.upload(stored.weight().scale, Out);
  }
  Weight<std::int8_t, Out, In> weight() const { return {values_.as<std::int8_t>(), scales_.as<float>()}; }

 private:
  cuda::DeviceBuffer values_, scales_;
};

// run(rows on the device) writes to a copy of `to`, which comes back; what lies behind its rows stays.
template <int C, class Run>
void on_device(const cuda::QueuePointer& queue, Tensor<float, C>& to, Run&& run) {
  const auto count = static_cast<std::size_t>(to.rows().rows) * Tensor<float, C>::stride;
  std::vector<float> values(to.rows().data, to.rows().data + count);
  values.insert(values.end(), 64, std::numeric_limits<float>::quiet_NaN());
  cuda::DeviceBuffer memory(queue);
  memory.upload(values.data(), values.size());
  run(Rows<float, C>{memory.as<float>(), to.rows().rows});
  memory.download(values.data(), values.size());
  std::copy_n(values.begin(), count, to.rows().data);
  CHECK(std::all_of(values.end() - 64, values.end(), [](float x) { return std::isnan(x); }));
}

template <int Out, int In>
void check_product(int rows) {
  INFO("rows " << rows << ", out " << Out << ", in " << In);
  const auto queue = std::make_shared<cuda::Queue>(0);
  cuda::Grid be(queue);
  const Tensor<float, In> x(rows, 1);
  Tensor<float, Out> y(rows, 2), added(rows, 3);
  const support::Parameter2<float, Out, In> values(5);
  const support::RowsOfInt8<Out, In> stored(values.in());
  const OnDevice<Out, In> w(queue, stored);
  std::vector<double> expected_sum = added.dense();
  const std::vector<double> expected = support::product_in_double(x, stored);
  std::transform(expected.begin(), expected.end(), expected_sum.begin(), expected_sum.begin(), std::plus<>());
  cuda::DeviceBuffer of_x(queue);
  of_x.upload(x.in().data, static_cast<std::size_t>(rows) * Tensor<float, In>::stride);
  const Rows<const float, In> there{of_x.as<float>(), rows};
  on_device(queue, y, [&](auto to) { linear(be, to, there, w.weight()); });
  on_device(queue, added, [&](auto to) { linear<Write::add>(be, to, there, w.weight()); });
  CHECK(support::relative_error(y.dense(), expected) < 1e-6);
  CHECK(support::relative_error(added.dense(), expected_sum) < 1e-6);
  CHECK(y.padding_is_zero());
  if (cuda::has_few_rows<std::int8_t>(be, rows)) {  // of rows that are normed on the way
    const Tensor<float, In> norm(1, 6);
    cuda::DeviceBuffer of_norm(queue);
    of_norm.upload(norm.in().data, Tensor<float, In>::stride);
    std::vector<double> expected_normed;
    for (int t = 0; t < rows; ++t) {
      double squares = 0;
      for (int i = 0; i < In; ++i) squares += x(t, i) * x(t, i);
      for (int o = 0; o < Out; ++o) {
        double sum = 0;
        for (int i = 0; i < In; ++i) sum += x(t, i) * norm(0, i) * stored(o, i);
        expected_normed.push_back(sum / std::sqrt(squares / In + math::norm_epsilon));
      }
    }
    Tensor<float, Out> normed(rows, 7);
    on_device(queue, normed,
              [&](auto to) { normed_linear(be, to, there, Weight<float, 1, In>{of_norm.as<float>()}, w.weight()); });
    CHECK(support::relative_error(normed.dense(), expected_normed) < 1e-6);
  }
  if constexpr (Out > 20) {  // rows of several outputs
    Tensor<float, 7> one(rows, 4);
    Tensor<float, Out - 7> two(rows, 5);
    on_device(queue, one, [&](auto first) {
      on_device(queue, two, [&](auto second) { linear(be, beside(first, second), there, w.weight()); });
    });
    double worst = 0;
    for (int t = 0; t < rows; ++t)
      for (int o = 0; o < Out; ++o)
        worst = support::larger(worst, std::abs((o < 7 ? one(t, o) : two(t, o - 7)) - static_cast<double>(y(t, o))));
    CHECK(worst < 1e-5);
    CHECK(one.padding_is_zero());
    CHECK(two.padding_is_zero());
  }
}

template <int Out, int In>
void check_products(std::initializer_list<int> all_rows) {
  for (const int rows : all_rows) check_product<Out, In>(rows);
}

template <class... Policies>
void check_model(double bound) {
  support::Pair<odd_config, Cuda, Int8Weights, Policies...> pair;
  const auto ids = support::random_tokens(5 * 8, odd_config.vocab_size, 1),
             other = support::random_tokens(5 * 8, odd_config.vocab_size, 2);
  CHECK(support::relative_error(support::values(pair.gpu.logits(ids, 5)), support::values(pair.cpu.logits(ids, 5))) <
        bound);
  // New weights, and those that files hold.
  MambaForComposite<odd_config, Policies...> in_float({.n_layers = 2, .gamma = 1.0, .seed = 9});
  pair.cpu.load_state_dict(in_float.state_dict());
  pair.gpu.load_state_dict(in_float.state_dict());
  for (const auto& [name, tensor] : pair.gpu.state_dict())
    CHECK(tensor.values == in_float.state_dict().at(name).values);
  const std::vector<std::int32_t> lengths{8, 1, 5, 7, 2};
  CHECK(support::relative_error(support::values(pair.gpu(ids, 5, lengths)),
                                support::values(pair.cpu(ids, 5, lengths))) < bound);
  std::vector<std::uint8_t> mask(40, 0);
  for (std::size_t i = 2; i < mask.size(); i += 8) mask[i] = 1;
  CHECK(support::relative_error(support::values(pair.gpu.blocked(ids, 5, mask)),
                                support::values(pair.cpu.blocked(ids, 5, mask))) < bound);
  CHECK(support::relative_error(support::values(pair.gpu.substituted(ids, other, 5, mask)),
                                support::values(pair.cpu.substituted(ids, other, 5, mask))) < bound);
}

// The mean loss of a language model, and the tokens that it goes on with.
void check_language_model() {
  const ModelOptions options{.n_layers = 2, .seed = 3};
  MambaLMHeadModel<odd_config, Int8Weights> cpu(options);
  MambaLMHeadModel<odd_config, Int8Weights, Cuda> gpu(options);
  const auto ids = support::random_tokens(3 * 20, odd_config.vocab_size, 1);
  const double expected = cpu.loss(ids, 3);
  CHECK(std::abs(gpu.loss(ids, 3) - expected) < 1e-5 * expected);
  CHECK(generate(gpu, ids, {.max_new_tokens = 10}) == generate(cpu, ids, {.max_new_tokens = 10}));
}

}  // namespace

// On both sides of the numbers of rows at which products go other ways, of sums of one panel and of many.
TEST_CASE("CUDA int8: products are those of what the rows stand for") {
  support::need_backend();
  check_products<1, 1>({1, 8, 9});
  check_products<3, 17>({1, 2, 9, 40});
  check_products<33, 260>({1, 7, 8, 9, 64, 65, 200});
  check_products<130, 1100>({1, 3, 17, 129});
  check_products<260, 70>({1, 8, 130, 257});
  check_products<4101, 1030>({1, 5});  // a large one, of more shares than blocks
}

TEST_CASE("CUDA int8: models are the CPU's") {
  support::need_backend();
  check_model<Mamba1, LearnedPosition<40>, ConvGate>(1e-5);
  check_model<Mamba2<12, 2>, UntiedHead>(1e-5);
  check_model<Mamba3<Mamba3Config{.headdim = 12, .rank = 2}>>(1e-5);
}

TEST_CASE("CUDA int8: language models") {
  support::need_backend();
  check_language_model();
}

TEST_CASE("CUDA int8: decoding", "[long]") {
  support::need_backend();
  support::check_decoding<odd_config, Cuda, Int8Weights>(1e-5);
  support::check_decoding<wide_config, CudaGrid, Int8Weights, Mamba2<>>(1e-5);
  support::check_decoding<broad_config, Cuda, Int8Weights, Mamba3<Mamba3Config{.headdim = 64}>>(1e-5);
}

TEST_CASE("CUDA int8: steps of many sequences, and the next tokens") {
  support::need_backend();
  support::check_steps_of_many<odd_config, Cuda, Int8Weights>({1, 9, 33});
  support::check_steps_of_many<odd_config, Cuda, Int8Weights, LinearConvResidual, UntiedHead>({1, 12});
  support::check_steps_of_many<odd_config, CudaGrid, Int8Weights, Mamba2<12, 2>>({1, 9, 33});
  support::check_steps_of_many<odd_config, Cuda, Int8Weights, Mamba3<Mamba3Config{.headdim = 12}>>({1, 9});
}

// What is not finite is found, and rows of zeros, or of next to nothing, are rows of zeros.
TEST_CASE("CUDA int8: rows that no scale is for") {
  support::need_backend();
  support::Pair<odd_config, Cuda, Int8Weights> pair;
  auto dict = pair.cpu.state_dict();
  auto& embedding = dict.at("backbone.embedding.weight").values;
  const auto row = [&](int r) { return embedding.begin() + r * odd_config.d_model; };
  std::fill_n(row(3), odd_config.d_model, 0.0F);
  std::fill_n(row(4), odd_config.d_model, 1e-38F);
  pair.cpu.load_state_dict(dict), pair.gpu.load_state_dict(dict);
  const std::vector<std::int32_t> ids{3, 4, 5, 3};
  CHECK(support::relative_error(support::values(pair.gpu.logits(ids, 1)), support::values(pair.cpu.logits(ids, 1))) <
        1e-5);
  *(row(5) + 2) = std::numeric_limits<float>::quiet_NaN();
  pair.gpu.load_state_dict(dict);
  const auto broken = pair.gpu.logits(std::vector<std::int32_t>{1, 5, 2}, 1);
  CHECK(std::isfinite(broken(0, 1)));
  CHECK(std::isnan(broken(1, 1)));
}
