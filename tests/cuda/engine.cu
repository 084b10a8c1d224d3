// What only the GPU's engine does: the same as the CPU's, the same again, and errors.
#include <catch2/matchers/catch_matchers_string.hpp>

#include "support/cuda.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 5};
inline constexpr Config wide_config{.vocab_size = 50, .d_model = 24, .d_state = 264, .d_conv = 3};
inline constexpr Config composite_config{}, language_config{.vocab_size = 50277, .d_model = 768, .d_state = 16};
inline constexpr Config broad_config{.vocab_size = 100, .d_model = 128, .d_state = 128};

}  // namespace

TEST_CASE("without a device a model says so") {
  if (cuda::device_count() > 0) SKIP("there is a CUDA device");
  CHECK_THROWS_WITH((MambaForComposite<tiny_config, Cuda>({.seed = 1})), ContainsSubstring("no device"));
}

TEST_CASE("CUDA: sequences of different lengths are as on the CPU") {
  support::need_backend();
  support::check_lengths<tiny_config, Cuda, double>(1e-13);
  support::check_lengths<wide_config, Cuda, double>(1e-12);
  support::check_lengths<tiny_config, Cuda, float>(2e-6);
  support::check_lengths<tiny_config, Cuda, double, Mamba2<4, 2>>(1e-12);
  support::check_lengths<broad_config, Cuda, float>(5e-6);
  support::check_lengths<broad_config, Cuda, float, Mamba2<64>>(5e-6);
}

TEST_CASE("CUDA: states, and their way between the devices") {
  support::need_backend();
  support::check_states<tiny_config, Cuda, Mamba1>();
  support::check_states<tiny_config, Cuda, Mamba2<4>>();
}

// By pieces to where they lie: over a model that the host has, one that the device has trained, and one that nobody has
// looked at.
TEST_CASE("CUDA: a model is loaded without a copy on the host, and saved as a folder") {
  support::need_backend();
  const auto folder = support::scratch("cuda_folder");
  const ModelOptions options{.n_layers = 2, .seed = 3};
  const MambaLMHeadModel<tiny_config> cpu(options);
  save_folder(cpu, folder / "cpu");
  MambaLMHeadModel<tiny_config> expected({.n_layers = 2, .draw = false});
  load(expected, folder / "cpu");
  const auto parameters = expected.state_dict();
  const auto ids = support::random_tokens(2 * 8, 11, 1);
  const auto check = [&](auto& gpu) {
    load(gpu, folder / "cpu");
    const auto found = gpu.state_dict();
    for (const auto& [name, tensor] : parameters) CHECK(found.at(name).values == tensor.values);
    CHECK(support::relative_error(support::values(gpu.logits(ids, 2)), support::values(expected.logits(ids, 2))) <
          2e-6);
  };
  MambaLMHeadModel<tiny_config, Cuda> drawn({.n_layers = 2, .seed = 4}), fresh({.n_layers = 2, .draw = false});
  check(drawn);
  check(fresh);
  AdamW optimizer(drawn, {.lr = 1e-2});
  drawn.loss_and_gradients(ids, 2);
  optimizer.step();
  check(drawn);
  save_folder(drawn, folder / "gpu");
  CHECK(io::read_file(folder / "gpu" / "model.safetensors") == io::read_file(folder / "cpu" / "model.safetensors"));
}

// One step of training; returns the loss.
const auto step = [](auto& model, auto& optimizer, const auto& ids, const auto& labels) {
  const double loss = model.loss_and_gradients(ids, labels);
  clip_grad_norm(model, 1.0);
  optimizer.step();
  return loss;
};

TEST_CASE("CUDA: a run gives the same bytes again") {
  support::need_backend();
  const auto ids = support::random_tokens(64 * 8, 11, 1), labels = support::random_tokens(64, 11, 2);
  const ModelOptions options{.n_layers = 2, .gamma = 1.0, .seed = 3};
  MambaForComposite<tiny_config, Cuda> first(options), second(options);
  AdamW first_optimizer(first, {.lr = 1e-3}), second_optimizer(second, {.lr = 1e-3});
  for (int s = 0; s < 30; ++s)
    CHECK(step(first, first_optimizer, ids, labels) == step(second, second_optimizer, ids, labels));
  const auto parameters = first.state_dict(), again = second.state_dict();
  for (const auto& [name, tensor] : parameters) CHECK(again.at(name).values == tensor.values);
}

// In double: in float the two part by rounding alone, for training magnifies it.
TEST_CASE("CUDA: 300 steps stay beside the CPU's") {
  support::need_backend();
  const auto ids = support::random_tokens(64 * 8, 11, 1), labels = support::random_tokens(64, 11, 2);
  support::Pair<tiny_config, Cuda, double> pair;
  AdamW cpu_optimizer(pair.cpu, {.lr = 1e-3});
  AdamW gpu_optimizer(pair.gpu, {.lr = 1e-3});
  double worst = 0;
  for (int s = 0; s < 300; ++s) {
    const double expected = step(pair.cpu, cpu_optimizer, ids, labels);
    worst = support::larger(worst, std::abs(step(pair.gpu, gpu_optimizer, ids, labels) - expected) / expected);
  }
  INFO("worst relative difference of the losses: " << worst);
  CHECK(worst < 1e-8);
}

// By TF32 a factor has 11 bits, so that a product is off by up to 2^-11 or so; the rest is computed as it was.
template <class Backend, class... Policies>
void check_products() {
  const auto ids = support::random_tokens(64 * 8, 100, 1), labels = support::random_tokens(64, 100, 2);
  const ModelOptions exact{.n_layers = 2, .seed = 3};
  ModelOptions single = exact;
  single.products = Products::tf32;
  MambaForComposite<broad_config, Backend, Policies...> model(exact), by_tf32(single);
  const auto logits = support::values(model(ids, 64)), of_tf32 = support::values(by_tf32(ids, 64));
  const double relative = support::relative_error(of_tf32, logits);
  INFO("relative difference " << relative);
  if constexpr (std::is_same_v<typename decltype(model)::Scalar, double>) {
    CHECK(relative == 0);
  } else {
    CHECK((relative > 2e-5 && relative < 3e-3));
    CHECK(support::values(by_tf32(ids, 64)) == of_tf32);
    AdamW optimizer(model, {.lr = 1e-3}), other(by_tf32, {.lr = 1e-3});
    const double loss = step(model, optimizer, ids, labels), loss_by_tf32 = step(by_tf32, other, ids, labels);
    CHECK((loss != loss_by_tf32 && std::abs(loss - loss_by_tf32) < 1e-2 * loss));
  }
}

TEST_CASE("CUDA: products of one TF32 multiplication") {
  support::need_backend();
  check_products<Cuda>();
  check_products<Cuda, Mamba2<64>>();
  check_products<CudaGrid>();
  check_products<Cuda, double>();
  check_products<CudaGrid, double>();
}

template <Config config>
bool prefers_grid(double tokens, double longest, CallKind call) {
  return ScopeRule<Resolve<config, Cuda>>::prefers_grid(tokens, longest, call);
}
template <Config config>
bool trains_by_grid(int batch, int length) {
  return ScopeRule<Resolve<config, Cuda>>::trains_by_grid(batch, length);
}

// On either side of the line a model computes as one that is told where.
TEST_CASE("CUDA: sizes decide the scope") {
  CHECK_FALSE(prefers_grid<composite_config>(2048 * 8, 8, CallKind::gradients));
  CHECK_FALSE(prefers_grid<composite_config>(256 * 8, 8, CallKind::forward));
  CHECK_FALSE(trains_by_grid<composite_config>(2048, 8));
  CHECK(prefers_grid<composite_config>(2048, 2048, CallKind::gradients));
  CHECK(prefers_grid<language_config>(8 * 2048, 2048, CallKind::gradients));
  CHECK(prefers_grid<language_config>(64, 64, CallKind::forward));
  CHECK(trains_by_grid<language_config>(8, 2048));
  CHECK((prefers_grid<composite_config>(1, 1, CallKind::step) && prefers_grid<language_config>(1, 1, CallKind::step)));

  support::need_backend();
  const ModelOptions options{.n_layers = 2, .gamma = 0.5, .seed = 3};
  MambaForComposite<broad_config, Cuda> model(options);
  MambaForComposite<broad_config, CudaBlock> by_block(options);
  MambaForComposite<broad_config, CudaGrid> by_grid(options);
  const auto same = [](auto& a, auto& b, int batch, int length) {
    const auto ids = support::random_tokens(batch * length, 100, 1), labels = support::random_tokens(batch, 100, 2);
    CHECK(support::values(a(ids, batch)) == support::values(b(ids, batch)));
    CHECK(a.loss_and_gradients(ids, labels) == b.loss_and_gradients(ids, labels));
    const auto gradients = a.gradient_dict(), others = b.gradient_dict();
    for (const auto& [name, tensor] : gradients) CHECK(others.at(name).values == tensor.values);
  };
  REQUIRE_FALSE(
      (prefers_grid<broad_config>(16, 8, CallKind::forward) || prefers_grid<broad_config>(16, 8, CallKind::gradients)));
  same(model, by_block, 2, 8);
  REQUIRE((prefers_grid<broad_config>(600, 300, CallKind::forward) &&
           prefers_grid<broad_config>(600, 300, CallKind::gradients)));
  same(model, by_grid, 2, 300);
}

TEST_CASE("CUDA: a scope that the options name") {
  support::need_backend();
  const auto ids = support::random_tokens(16 * 8, 100, 1), labels = support::random_tokens(16, 100, 2);
  const auto options = [](Scope scope) { return ModelOptions{.n_layers = 2, .gamma = 0.5, .seed = 3, .scope = scope}; };
  const auto same = [&](auto&& a, auto&& b) {
    CHECK(support::values(a(ids, 16)) == support::values(b(ids, 16)));
    CHECK(a.loss_and_gradients(ids, labels) == b.loss_and_gradients(ids, labels));
    const auto gradients = a.gradient_dict(), others = b.gradient_dict();
    for (const auto& [name, tensor] : gradients) CHECK(others.at(name).values == tensor.values);
  };
  using Model = MambaForComposite<broad_config, Cuda>;
  same(Model(options(Scope::grid)), MambaForComposite<broad_config, CudaGrid>(options(Scope::by_sizes)));
  same(Model(options(Scope::block)), MambaForComposite<broad_config, CudaBlock>(options(Scope::by_sizes)));
  const auto refused = [](auto&& make, const char* words) { CHECK_THROWS_WITH(make(), ContainsSubstring(words)); };
  refused([&] { MambaForComposite<broad_config, CudaGrid>(options(Scope::block)); }, "runs over the whole GPU");
  refused([&] { MambaForComposite<broad_config, Cuda, BFloat16>(options(Scope::block)); }, "runs over the whole GPU");
  refused([&] { MambaForComposite<broad_config>(options(Scope::grid)); }, "a scope is a GPU's");
}

TEST_CASE("CUDA: what looks and reaches inside is as on the CPU") {
  support::need_backend();
  support::check_inside<tiny_config, Cuda>(1e-12);
}

TEST_CASE("CUDA: wrong input is refused as on the CPU") {
  support::need_backend();
  support::Pair<tiny_config, Cuda> pair;
  const std::vector<std::int32_t> ids{1, 2, 99}, labels{1};
  CHECK_THROWS_WITH(pair.gpu(ids, 1), ContainsSubstring("token 99 at position 2 of sequence 0"));
  CHECK_THROWS_WITH((MambaForComposite<tiny_config, Cuda>({.seed = 1, .device = 99})),
                    ContainsSubstring("device 99 is not in 0.."));
}
