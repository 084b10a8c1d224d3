// The main calls of a model on a GPU, at sizes that compute-sanitizer's tools get through in a minute or two: the
// targets sanitize.* run it (../README.md). By itself it checks that what was computed is what the CPU computes.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mamba/composite.hpp>

namespace {

using namespace mamba;

// The default sizes, whose layouts most people run, and sequences that fill no warp.
inline constexpr Config config{};
constexpr int batch = 5, n_layers = 2;

std::vector<std::int32_t> tokens(int count, int first) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back((first + 37 * i) % 100);
  return ids;
}

bool all_close = true;

void check(std::string_view what, double difference, double bound) {
  if (difference <= bound) return;  // not where it is no number
  std::printf("  %.*s: %.3g away from the CPU's\n", static_cast<int>(what.size()), what.data(), difference);
  all_close = false;
}

using Values = std::vector<double>;

Values values_of(const Matrix<float>& matrix) { return {matrix.values().begin(), matrix.values().end()}; }
Values values_of(const StateDict<float>& dict) {
  Values all;
  for (const auto& [name, tensor] : dict) all.insert(all.end(), tensor.values.begin(), tensor.values.end());
  return all;
}

// |a - b| / |b|; not a number where one of them is none.
double difference(const Values& a, const Values& b) {
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) apart += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
  return std::sqrt(apart / size);
}

template <class Backend, class Mixer, int length = 9, class Precision = float>
void run(const char* name) {
  // In 16 bits the two round in other places: the bounds are wide, and tokens may be others. tests/cuda/bfloat16.cu is
  // what compares there.
  constexpr bool rounds = std::is_same_v<Precision, BFloat16>;
  constexpr double near = rounds ? 0.03 : 1e-4, near_in_change = rounds ? 0.5 : 0.05;
  const auto begin = std::chrono::steady_clock::now();
  const ModelOptions options{.n_layers = n_layers, .gamma = 1.0, .seed = 3};
  MambaForComposite<config, Backend, Mixer, Precision> gpu(options);
  MambaForComposite<config, Cpu, Mixer, Precision> cpu(options);
  const auto ids = tokens(batch * length, 1), reference = tokens(batch * length, 2), labels = tokens(batch, 4);
  const std::vector<std::int32_t> lengths{9, 1, 4, 9, 8};
  const auto both = [&](std::string_view what, double bound, auto&& compute) {
    check(what, difference(values_of(compute(gpu)), values_of(compute(cpu))), bound);
  };
  both("logits", near, [&](auto& model) { return model(ids, batch, lengths); });
  both("decoding", near, [&](auto& model) {
    auto state = model.initial_state(batch);
    model.prefill(ids, batch, state, lengths);
    model.step(std::span(ids).first(batch), state);
    return Matrix<float>(model.step(std::span(ids).last(batch), state));
  });
  both("next tokens of many sequences", rounds ? 1 : 0, [&](auto& model) {
    constexpr int many = 12;  // more than go as few rows
    auto state = model.initial_state(many);
    Matrix<float> chosen(2, many);
    auto next = model.next_tokens(tokens(many * 3, 1), many, state);
    for (int row = 0; row < 2; ++row) {
      next = model.next_tokens(std::vector<std::int32_t>(next), many, state);
      std::copy(next.begin(), next.end(), &chosen(row, 0));
    }
    return chosen;
  });
  both("a visit that changes rows", near, [&](auto& model) {
    return model.visit(ids, batch, [](Point point, int layer, MatrixView<float> rows, std::span<const int>) {
      if (point == Point::conv_output && layer == 1) rows(1, 2) += 1;
    });
  });
  std::vector<std::uint8_t> mask(ids.size());
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = i % 4 == 1;
  both("blocking", near, [&](auto& model) { return model.blocked(ids, batch, mask, {}, Reading::downstream); });
  both("substitution", near, [&](auto& model) { return model.substituted(ids, reference, batch, mask); });
  both("gradients", near, [&](auto& model) {
    model.visit_gradients(ids, labels, [](Point, int, MatrixView<float>, std::span<const int>) {}, lengths);
    return model.gradient_dict();
  });
  // What the steps change; a gradient that is nearly zero may have another sign, and its element goes the other way.
  const auto both_change = [&](std::string_view what, auto&& train) {
    const auto change = [&](auto& model) {
      const Values before = values_of(model.state_dict());
      train(model);
      Values after = values_of(model.state_dict());
      for (std::size_t i = 0; i < after.size(); ++i) after[i] -= before[i];
      return after;
    };
    check(what, difference(change(gpu), change(cpu)), near_in_change);
  };
  both_change("a step of one's own", [&](auto& model) {
    AdamW optimizer(model, {.lr = 1e-3});
    model.loss_and_gradients(ids, labels, lengths);
    clip_grad_norm(model, 1);
    optimizer.step();
  });
  both_change("steps of a trainer", [&](auto& model) {
    const task::CompositeFunction task({.train_samples = 40});
    Trainer trainer(model, task, {.batch_size = 20, .schedule = {.warmup = 1, .total = 2}, .seed = 3});
    while (!trainer.finished()) trainer.step();
  });
  std::printf("%s: %.1f s\n", name, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
}

}  // namespace

int main() {
  if (cuda::device_count() == 0) {
    std::printf("no CUDA device\n");
    return 77;
  }
  run<CudaBlock, Mamba1>("block, Mamba-1");
  run<CudaBlock, Mamba2<>>("block, Mamba-2");
  run<CudaGrid, Mamba1>("grid, Mamba-1");
  run<CudaGrid, Mamba2<>>("grid, Mamba-2");
  run<CudaGrid, Mamba1, 70>("grid, Mamba-1, several stretches");
  run<CudaGrid, Mamba2<16>, 70>("grid, Mamba-2, several heads and chunks");
  run<CudaGrid, Mamba1, 70, BFloat16>("grid, Mamba-1, 16 bits");
  run<CudaGrid, Mamba2<16>, 70, BFloat16>("grid, Mamba-2, 16 bits");
  return all_close ? 0 : 1;
}
