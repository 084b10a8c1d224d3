// Models whose weights and activations are stored in 16 bits, on the GPU.
#include "support/bfloat16_checks.hpp"
#include "support/cuda.hpp"

using namespace mamba;

namespace {

inline constexpr Config odd{.vocab_size = 101, .d_model = 24, .d_state = 5, .d_conv = 3};
inline constexpr Config narrow{.vocab_size = 101, .d_model = 18, .d_state = 5, .expand = 1};
inline constexpr Config broad{.vocab_size = 100, .d_model = 128, .d_state = 128};
inline constexpr Config broad_mamba1{.vocab_size = 100, .d_model = 128, .d_state = 16};

template <class Scalar>
double distance_of(const StateDict<Scalar>& a, const StateDict<Scalar>& b) {
  double worst = 0;
  for (const auto& [name, tensor] : a) {
    const double off = support::distance(tensor.values, b.at(name).values);
    worst = off <= worst ? worst : off;
  }
  return worst;
}

// Sequences of several chunks and of different lengths, by the CPU's numbers of 16 bits.
template <Config config, class... Policies>
void check_lengths() {
  support::Pair<config, Cuda, BFloat16, Policies...> pair;
  constexpr int batch = 6, length = 200;
  const auto ids = support::random_tokens(batch * length, config.vocab_size, 1),
             labels = support::random_tokens(batch, config.vocab_size, 2);
  const std::vector<std::int32_t> lengths{200, 1, 64, 65, 128, 150};
  CHECK(support::distance(pair.cpu(ids, batch, lengths).values(), pair.gpu(ids, batch, lengths).values()) <
        8 * support::bfloat16_unit);
  const double expected = pair.cpu.loss_and_gradients(ids, labels, lengths);
  CHECK(std::abs(pair.gpu.loss_and_gradients(ids, labels, lengths) / expected - 1) < support::bfloat16_unit);
  CHECK(distance_of(pair.cpu.gradient_dict(), pair.gpu.gradient_dict()) < 24 * support::bfloat16_unit);
}

// Prompts by pieces, and tokens one by one for so many sequences as go each way through the products.
template <Config config, class... Policies>
void check_decoding() {
  MambaForComposite<config, Cuda, BFloat16, Policies...> model({.n_layers = 2, .seed = 3});
  for (const int batch : {257, 1, 3, 4, 5, 9, 64, 65, 256}) {  // the largest first, which leaves numbers behind
    INFO("batch " << batch);
    constexpr int length = 12;
    const auto count = static_cast<std::size_t>(batch);
    const auto ids = support::random_tokens(count * length, config.vocab_size, 5);
    const auto whole = model.logits(ids, batch);
    auto state = model.initial_state(batch), at_once = state;
    Matrix<float> last;
    std::vector<std::int32_t> tokens(count);
    for (std::size_t t = 0; t < length; ++t) {
      for (std::size_t s = 0; s < count; ++s) tokens[s] = ids[s * length + t];
      last = model.step(tokens, state);
    }
    const auto prefilled = model.prefill(ids, batch, at_once);
    double worst = 0;
    for (int s = 0; s < batch; ++s) {
      const auto expected = whole.row(s * length + length - 1);
      worst = support::larger(worst, support::distance(expected, last.row(s)));
      worst = support::larger(worst, support::distance(expected, prefilled.row(s)));
    }
    INFO("largest distance " << worst);
    CHECK(worst < 8 * support::bfloat16_unit);
    const Sampling sampling{.temperature = 0.7, .seed = 3};
    auto again = state;
    CHECK(model.next_tokens(tokens, batch, state, sampling) == model.next_tokens(tokens, batch, again, sampling));
  }
}

// A probe that changes nothing sees the model that logits() runs.
template <class... Policies>
void check_silent_probe() {
  MambaForComposite<broad, Cuda, BFloat16, Policies...> model({.n_layers = 3, .seed = 3});
  const auto ids = support::random_tokens(5 * 8, broad.vocab_size, 1);
  const auto all = model.logits(ids, 5);
  const auto visited = model.visit(ids, 5, [](Point, int, MatrixView<float>, std::span<const int>) {});
  const auto blocked = model.blocked(ids, 5, std::vector<std::uint8_t>(ids.size()));
  for (int s = 0; s < 5; ++s) {
    const auto expected = all.row(8 * s + 7).first(visited.row(s).size());  // without the vocabulary's padding
    CHECK(support::distance(expected, visited.row(s)) < 1e-6);
    CHECK(support::distance(expected, blocked.row(s)) < 1e-6);
  }
}

}  // namespace

TEST_CASE("CUDA bfloat16: a probe that changes nothing sees the model's own numbers") {
  support::need_backend();
  check_silent_probe<Mamba1>();
  check_silent_probe<Mamba2<64>>();
}

TEST_CASE("CUDA bfloat16: logits, loss and every gradient tensor are float's, to stored numbers' error") {
  support::need_backend();
  support::check_bfloat16_variants<Cuda>();
}

TEST_CASE("CUDA bfloat16: decoding, probes and interventions") {
  support::need_backend();
  support::check_bfloat16_calls<Cuda, Mamba1>();
  support::check_bfloat16_calls<Cuda, Mamba2<16>>();
}

TEST_CASE("CUDA bfloat16: sequences of several chunks and different lengths") {
  support::need_backend();
  check_lengths<odd>();
  check_lengths<broad_mamba1>();
  check_lengths<odd, Mamba2<12, 2>>();
  check_lengths<broad, Mamba2<64>>();
}

TEST_CASE("CUDA bfloat16: steps of few and of many sequences") {
  support::need_backend();
  check_decoding<narrow>();
  check_decoding<narrow, Mamba2<6>>();
  check_decoding<odd>();
  check_decoding<broad_mamba1>();
  check_decoding<odd, Mamba2<12, 2>>();
  check_decoding<broad, Mamba2<64>>();
}

TEST_CASE("CUDA bfloat16: a training gives the same bytes again, and goes on from its checkpoint") {
  support::need_backend();
  const task::CompositeFunction task({.train_samples = 60});
  const TrainingOptions options{
      .batch_size = 60, .schedule = {.lr = 1e-2, .warmup = 5, .total = 60}, .schedule_in_steps = true};
  using Model = MambaForComposite<broad_mamba1, Cuda, BFloat16>;
  const auto path = std::filesystem::temp_directory_path() / "mamba_cuda_bfloat16.safetensors";
  StateDict<float> first;
  for (int run = 0; run < 2; ++run) {
    Model model({.n_layers = 1, .seed = 5});
    Trainer trainer(model, task, options);
    trainer.run(20);
    const double begin = trainer.take_mean_loss();
    if (run == 0) save_checkpoint(trainer, path, {});
    trainer.run(40);
    CHECK(trainer.take_mean_loss() < 0.8 * begin);
    if (run == 0) first = model.state_dict();
    for (const auto& [name, tensor] : model.state_dict()) CHECK(tensor.values == first.at(name).values);
  }
  Model model({.n_layers = 1, .seed = 6});
  Trainer trainer(model, task, options);
  load_checkpoint(trainer, io::SafetensorsFile::read(path));
  trainer.run(40);
  for (const auto& [name, tensor] : model.state_dict()) CHECK(tensor.values == first.at(name).values);
  std::filesystem::remove(path);
}
