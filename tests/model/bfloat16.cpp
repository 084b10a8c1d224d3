// Models whose weights and activations are stored in 16 bits, beside the same models in float.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <filesystem>
#include <vector>

#include <mamba/composite.hpp>

#include "support/bfloat16_checks.hpp"

using namespace mamba;
using support::distance;

namespace {

inline constexpr Config config{.vocab_size = 100, .d_model = 32, .d_state = 16};
[[maybe_unused]] inline constexpr Config narrow{.vocab_size = 101, .d_model = 18, .d_state = 5, .expand = 1};
[[maybe_unused]] inline constexpr Mamba3Config of_heads{.headdim = 8, .ngroups = 2, .rotates_all = true};
inline constexpr Mamba3Config of_ranks{.headdim = 16, .rank = 2};
constexpr double unit = support::bfloat16_unit;

}  // namespace

TEST_CASE("bfloat16: logits, loss and every gradient tensor are float's, to stored numbers' error") {
#ifdef MAMBA_TEST_FEW_MODELS
  support::check_bfloat16<Cpu, narrow, Mamba1, LearnedPosition<8>, LinearConvResidual>("mamba1, linear residual");
  support::check_bfloat16<Cpu, narrow, Mamba2<6>, ConvResidual>("mamba2, residual");
#else
  support::check_bfloat16_variants<Cpu>();
  // Of a single head the gradient of dt_bias is one number, a sum whose terms cancel.
  support::check_bfloat16<Cpu, config, Mamba3<of_heads>>("mamba3");
#endif
  support::check_bfloat16<Cpu, config, Mamba3<of_ranks>, UntiedHead>("mamba3, ranks");
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
  support::check_bfloat16_calls<Cpu, Mamba2<16>>();
#ifndef MAMBA_TEST_FEW_MODELS
  support::check_bfloat16_calls<Cpu, Mamba1>();
  support::check_bfloat16_calls<Cpu, Mamba3<of_ranks>>();
#endif
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
