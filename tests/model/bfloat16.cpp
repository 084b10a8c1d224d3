// Models whose weights and activations are stored in 16 bits, beside the same models in float.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <mamba/composite.hpp>

using namespace mamba;

namespace {

inline constexpr Config config{.vocab_size = 100, .d_model = 32, .d_state = 16};
inline constexpr Config odd{.vocab_size = 101, .d_model = 24, .d_state = 5, .d_conv = 3};
constexpr int batch = 48;

struct Samples {
  std::vector<std::int32_t> ids, labels;
  Samples() : ids(batch * 8), labels(batch) {
    const task::CompositeFunction task;
    for (std::size_t i = 0; i < batch; ++i)
      labels[i] = task.train_sample(static_cast<std::int64_t>(i), ids.data() + 8 * i);
  }
};

// |a - b| / |a|, by Euclidean norms.
template <class Values>
double distance(const Values& a, const Values& b) {
  REQUIRE(a.size() == b.size());
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    difference += (x - y) * (x - y), size += x * x;
  }
  return std::sqrt(difference / size);
}

// A stored number is off by at most 2^-9 of itself; through two layers it becomes some times that.
constexpr double unit = 0x1p-9;

template <Config c, class... Policies>
void check(const char* name) {
  INFO(name);
  const Samples samples;
  const ModelOptions options{.n_layers = 2, .gamma = 0.6, .seed = 5, .threads = 2};
  MambaForComposite<c, float, Policies...> exact(options);
  MambaForComposite<c, Policies..., BFloat16> model(options);
  static_assert(std::is_same_v<typename decltype(model)::Scalar, float>);
  CHECK(model.state_dict().at("backbone.embedding.weight").values ==
        exact.state_dict().at("backbone.embedding.weight").values);  // the master weights are float

  CHECK(distance(exact.logits(samples.ids, batch).values(), model.logits(samples.ids, batch).values()) < 8 * unit);
  const double loss = exact.loss_and_gradients(samples.ids, samples.labels);
  CHECK(std::abs(model.loss_and_gradients(samples.ids, samples.labels) / loss - 1) < unit);
  // How well a tensor's gradient is determined at all: by float's, of weights that are rounded as the stored ones.
  auto rounded_weights = exact.state_dict();
  for (auto& [tensor, weights] : rounded_weights)
    for (float& x : weights.values) x = BFloat16(x);
  const auto gradients = exact.gradient_dict(), of_stored = model.gradient_dict();
  exact.load_state_dict(rounded_weights);
  exact.loss_and_gradients(samples.ids, samples.labels);
  const auto of_rounded = exact.gradient_dict();
  for (const auto& [tensor, gradient] : gradients) {
    INFO(tensor);
    const double off = distance(gradient.values, of_stored.at(tensor).values),
                 sensitivity = distance(gradient.values, of_rounded.at(tensor).values);
    CAPTURE(sensitivity);
    CHECK(off < 12 * unit + 6 * sensitivity);
    CHECK(off > 0);
  }
}

}  // namespace

TEST_CASE("bfloat16: logits, loss and every gradient tensor are float's, to stored numbers' error") {
  check<config, Mamba1>("mamba1");
  check<odd, Mamba1>("mamba1, odd sizes");
  check<config, Mamba1, FrozenOnesConv>("mamba1, ones");
  check<config, Mamba1, LearnedPosition<8>, LinearConvResidual>("mamba1, linear residual, positions");
  check<config, Mamba1, SinusoidalPosition, ConvGate>("mamba1, gate, sinusoids");
  check<odd, Mamba1, UntiedHead>("mamba1, odd sizes, untied");
  check<config, Mamba2<>>("mamba2");
  check<odd, Mamba2<>>("mamba2, odd sizes");
  check<config, Mamba2<16, 2>, ConvResidual>("mamba2, heads and groups, residual");
}

TEST_CASE("bfloat16: training learns, with the same bytes for any number of threads, also from a checkpoint") {
  const task::CompositeFunction task({.train_samples = 60});  // few enough to know them by heart
  const TrainingOptions options{
      .batch_size = 60, .schedule = {.lr = 1e-2, .warmup = 5, .total = 60}, .schedule_in_steps = true};
  const auto path = std::filesystem::temp_directory_path() / "mamba-bfloat16.safetensors";
  StateDict<float> first;
  for (const int threads : {1, 2, 5}) {
    MambaForComposite<config, BFloat16> model({.n_layers = 1, .seed = 5, .threads = threads});
    Trainer trainer(model, task, options);
    trainer.run(20);
    const double begin = trainer.take_mean_loss();
    if (threads == 2) save_checkpoint(trainer, path, {});
    trainer.run(40);
    CHECK(trainer.take_mean_loss() < 0.8 * begin);
    if (first.empty()) first = model.state_dict();
    for (const auto& [name, tensor] : model.state_dict()) CHECK(tensor.values == first.at(name).values);
  }
  MambaForComposite<config, BFloat16> model({.n_layers = 1, .seed = 6});
  Trainer trainer(model, task, options);
  load_checkpoint(trainer, io::SafetensorsFile::read(path));
  trainer.run(40);
  for (const auto& [name, tensor] : model.state_dict()) CHECK(tensor.values == first.at(name).values);
  // A float's training is another one.
  MambaForComposite<config> in_float({.n_layers = 1});
  Trainer other(in_float, task, options);
  CHECK_THROWS_AS(load_checkpoint(other, io::SafetensorsFile::read(path)), Error);
  std::filesystem::remove(path);
}

TEST_CASE("bfloat16: decoding, probes and interventions") {
  const Samples samples;
  MambaForComposite<config, BFloat16> model({.n_layers = 2, .gamma = 0.6, .seed = 5});
  MambaForComposite<config> exact({.n_layers = 2, .gamma = 0.6, .seed = 5});
  auto state = model.initial_state(batch);
  std::vector<std::int32_t> tokens(batch);
  Matrix<float> last;
  for (std::size_t t = 0; t < 8; ++t) {
    for (std::size_t i = 0; i < batch; ++i) tokens[i] = samples.ids[8 * i + t];
    last = model.step(tokens, state);
  }
  const auto all = model.logits(samples.ids, batch);
  for (std::ptrdiff_t i = 0; i < batch; ++i) CHECK(distance(all.row(8 * i + 7), last.row(i)) < 8 * unit);

  // A visitor gets numbers as they are computed with, and changes what is stored.
  const auto before = model.visit(samples.ids, batch, [](Point, int, MatrixView<float>, std::span<const int>) {});
  const auto after = model.visit(samples.ids, batch, [](Point point, int, MatrixView<float> rows, auto) {
    if (point == Point::conv_output) std::fill(rows.row(3).begin(), rows.row(3).end(), 0.0F);
  });
  CHECK(distance(before.values(), after.values()) > 0);
  CHECK(distance(exact.activations(Point::conv_output, samples.ids, batch)[1].values(),
                 model.activations(Point::conv_output, samples.ids, batch)[1].values()) < 8 * unit);

  std::vector<std::uint8_t> mask(samples.ids.size());
  for (std::size_t i = 2; i < mask.size(); i += 8) mask[i] = 1;
  const std::vector<std::int32_t> reference(samples.ids.rbegin(), samples.ids.rend());
  for (const Reading reading : {Reading::strict, Reading::downstream})
    CHECK(distance(exact.blocked(samples.ids, batch, mask, {}, reading).values(),
                   model.blocked(samples.ids, batch, mask, {}, reading).values()) < 8 * unit);
  CHECK(distance(exact.substituted(samples.ids, reference, batch, mask).values(),
                 model.substituted(samples.ids, reference, batch, mask).values()) < 8 * unit);
}

TEST_CASE("bfloat16: files hold the master weights, or on request what is stored") {
  const auto folder = std::filesystem::temp_directory_path() / "mamba-bfloat16-files";
  std::filesystem::create_directories(folder);
  MambaForComposite<config, BFloat16> model({.n_layers = 1, .gamma = 0.6, .seed = 5});
  save(model, folder / "master.safetensors");
  save(model, folder / "stored.safetensors", {.stored = true});
  CHECK(2 * std::filesystem::file_size(folder / "stored.safetensors") <
        std::filesystem::file_size(folder / "master.safetensors") + 8000);

  MambaForComposite<config, BFloat16, UntiedHead> untied({.n_layers = 1, .gamma = 0.6, .seed = 5});
  save(untied, folder / "untied.safetensors", {.stored = true});
  CHECK(io::SafetensorsFile::read(folder / "untied.safetensors").tensors().at("lm_head.weight").dtype == "BF16");

  const std::vector<std::int32_t> ids{25, 31, 47, 52, 1, 2, 60, 71};
  const auto expected = model.logits(ids, 1);
  for (const char* file : {"master.safetensors", "stored.safetensors"}) {
    INFO(file);
    MambaForComposite<config, BFloat16> loaded({.n_layers = 1, .draw = false});
    load(loaded, folder / file);
    const auto logits = loaded.logits(ids, 1);
    CHECK(std::equal(logits.values().begin(), logits.values().end(), expected.values().begin()));
    MambaForComposite<config> in_float({.n_layers = 1, .draw = false});
    load(in_float, folder / file);
    CHECK(distance(expected.values(), in_float.logits(ids, 1).values()) < 8 * unit);
  }
  const auto master = io::SafetensorsFile::read(folder / "master.safetensors"),
             stored = io::SafetensorsFile::read(folder / "stored.safetensors");
  CHECK(master.tensors().at("backbone.embedding.weight").dtype == "F32");
  CHECK(stored.tensors().at("backbone.embedding.weight").dtype == "BF16");
  CHECK(stored.tensors().at("backbone.layers.0.mixer.A_log").dtype == "F32");
  std::filesystem::remove_all(folder);
}
