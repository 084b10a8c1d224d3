// Models whose weights and activations are stored in 16 bits, on the GPU.
#include "support/bfloat16_checks.hpp"
#include "support/cuda.hpp"
#include "support/cuda_bfloat16.hpp"

using namespace mamba;

namespace {

inline constexpr Config odd{.vocab_size = 101, .d_model = 24, .d_state = 5, .d_conv = 3};
inline constexpr Config narrow{.vocab_size = 101, .d_model = 18, .d_state = 5, .expand = 1};
inline constexpr Config broad{.vocab_size = 100, .d_model = 128, .d_state = 128};
inline constexpr Config broad_mamba1{.vocab_size = 100, .d_model = 128, .d_state = 16};

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
  support::check_bfloat16_lengths<odd, Cuda>();
  support::check_bfloat16_lengths<broad_mamba1, Cuda>();
  support::check_bfloat16_lengths<odd, Cuda, Mamba2<12, 2>>();
  support::check_bfloat16_lengths<broad, Cuda, Mamba2<64>>();
}

TEST_CASE("CUDA bfloat16: steps of few and of many sequences") {
  support::need_backend();
  support::check_bfloat16_decoding<narrow, Cuda>();
  support::check_bfloat16_decoding<narrow, Cuda, Mamba2<6>>();
  support::check_bfloat16_decoding<odd, Cuda>();
  support::check_bfloat16_decoding<broad_mamba1, Cuda>();
  support::check_bfloat16_decoding<odd, Cuda, Mamba2<12, 2>>();
  support::check_bfloat16_decoding<broad, Cuda, Mamba2<64>>();
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
