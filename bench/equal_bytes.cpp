// Prints a hash of what every variant computes: logits of a fresh model, parameters after some steps of training, a
// decoded token, both interventions. Two builds whose lines are the same compute the same bytes; CONTRIBUTING.md says
// when to look.
//   bench_equal_bytes >before.txt    ...    bench_equal_bytes | diff before.txt -
// A GPU's: nvcc -x cu -DBACKEND=mamba::Cuda (or mamba::CudaBlock, mamba::CudaGrid), as bench/README.md writes it out.
#include <cstdint>
#include <cstdio>
#include <map>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <mamba/composite.hpp>

#ifndef BACKEND
#define BACKEND mamba::Cpu
#endif

namespace {

// Where the backend has it; else what it has.
[[maybe_unused]] inline constexpr mamba::Mamba3Config ranks{
    .headdim = 16, .ngroups = 2, .rank = 2, .output_norm = true};
inline constexpr bool stores_16_bits = !std::is_same_v<BACKEND, mamba::CudaBlock>;
using Stored = std::conditional_t<stores_16_bits, mamba::BFloat16, float>;

// FNV-1a over bytes.
class Hash {
 public:
  template <class T>
  void add(std::span<const T> values) {
    for (const std::byte b : std::as_bytes(values)) hash_ = (hash_ ^ static_cast<std::uint64_t>(b)) * 0x100000001B3U;
  }
  template <class T>
  void add(const mamba::Matrix<T>& matrix) {
    add(matrix.values());
  }
  std::uint64_t value() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xCBF29CE484222325U;
};

template <class Dict>
void add_dict(Hash& hash, const Dict& dict) {
  for (const auto& [name, tensor] : dict) hash.add(std::span(std::as_const(tensor.values)));
}

inline constexpr mamba::Config composite{.vocab_size = 100, .d_model = 32, .d_state = 16};
inline constexpr mamba::Config odd{.vocab_size = 101, .d_model = 24, .d_state = 5, .d_conv = 3};
inline constexpr mamba::Config wide{.vocab_size = 100, .d_model = 128, .d_state = 64};

template <mamba::Config config, class... Policies>
void run(const std::string& name) {
  mamba::MambaForComposite<config, BACKEND, Policies...> model({.n_layers = 2, .gamma = 0.6, .seed = 7, .threads = 2});
  const mamba::task::CompositeFunction task;
  Hash of_logits, of_training, of_decoding, of_interventions;
  std::vector<std::int32_t> ids(12 * static_cast<std::size_t>(task.length)), lengths;
  for (int i = 0; i < 12; ++i)
    task.train_sample(i, ids.data() + i * task.length), lengths.push_back(1 + i % task.length);
  of_logits.add(model.logits(ids, 12, lengths));
  mamba::Trainer trainer(model, task,
                         {.batch_size = 70,
                          .schedule = {.initial_lr = 1e-3, .lr = 1e-3, .warmup = 0, .total = 6},
                          .schedule_in_steps = true,
                          .seed = 3});
  trainer.run(6);
  add_dict(of_training, model.state_dict());
  add_dict(of_training, model.gradient_dict());
  auto state = model.initial_state(12);
  of_decoding.add(model.prefill(ids, 12, state, lengths));
  of_decoding.add(model.step(std::span(ids).first(12), state));
  add_dict(of_decoding,
           std::map{std::pair("history", state.history_tensor()), std::pair("states", state.state_tensor())});
  std::vector<std::uint8_t> mask(ids.size());
  for (std::size_t i = 0; i < mask.size(); i += 3) mask[i] = 1;
  std::vector<std::int32_t> reference(ids.rbegin(), ids.rend());
  of_interventions.add(model.blocked(ids, 12, mask));
  of_interventions.add(model.blocked(ids, 12, mask, {}, mamba::Reading::downstream));
  of_interventions.add(model.substituted(ids, reference, 12, mask));
  std::printf("%-40s %016llx %016llx %016llx %016llx\n", name.c_str(),
              static_cast<unsigned long long>(of_logits.value()), static_cast<unsigned long long>(of_training.value()),
              static_cast<unsigned long long>(of_decoding.value()),
              static_cast<unsigned long long>(of_interventions.value()));
}

template <class Mixer>
void variants(const char* mixer) {
  const auto name = [&](const char* variant) { return std::string(mixer) + " " + variant; };
  run<composite, Mixer>(name("plain"));
  run<composite, Mixer, double>(name("double"));
  run<odd, Mixer>(name("odd sizes"));
  run<wide, Mixer>(name("wide"));
  run<composite, Mixer, mamba::OnesConv>(name("ones"));
  run<composite, Mixer, mamba::FrozenOnesConv>(name("ones-frozen"));
  run<composite, Mixer, mamba::LearnedPosition<16>>(name("learned positions"));
  run<composite, Mixer, mamba::SinusoidalPosition>(name("sinusoids"));
  run<composite, Mixer, mamba::ConvResidual>(name("residual"));
  run<composite, Mixer, mamba::ConvGate>(name("gate"));
  run<composite, Mixer, mamba::LinearConvResidual, mamba::LearnedPosition<16>>(name("linear residual, positions"));
}

}  // namespace

int main() {
  variants<mamba::Mamba1>("mamba1");
  variants<mamba::Mamba2<>>("mamba2");
  run<composite, mamba::Mamba2<8, 2>>("mamba2 heads and groups");
  run<composite, mamba::Mamba1, mamba::UntiedHead>("mamba1 untied");
#ifndef __CUDACC__
  run<composite, mamba::Mamba3<>>("mamba3 plain");
  run<composite, mamba::Mamba3<ranks>, mamba::LearnedPosition<16>>("mamba3 ranks, norm, positions");
#endif
  if constexpr (stores_16_bits) {
    run<composite, mamba::Mamba1, Stored>("mamba1 bfloat16");
    run<composite, mamba::Mamba2<>, Stored>("mamba2 bfloat16");
  }
}
