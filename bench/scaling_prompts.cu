// Models that read one long sequence in pieces: cost that grows with its length alone, in memory that does not.
#include <span>

#include <mamba/language_model.hpp>

#include "scaling_model.hpp"

namespace {

using scaling::Measured, scaling::Plan, scaling::PromptModel;

template <mamba::Config config, class Precision, class Mixer>
Measured forward(const Plan& plan, int tokens) {
  mamba::MambaLMHeadModel<config, mamba::Cuda, Precision, Mixer> model({.n_layers = scaling::prompt_layers, .seed = 1});
  auto state = model.initial_state(1);
  const auto ids = scaling::some_tokens(std::min(tokens, scaling::prompt_piece));
  // The sequence goes on from call to call: what it has had before costs nothing.
  const double seconds = scaling::median_seconds(plan, [&] {
    for (int t = 0; t < tokens; t += scaling::prompt_piece)
      model.prefill(std::span(ids).first(static_cast<std::size_t>(std::min(scaling::prompt_piece, tokens - t))), 1,
                    state);
  });
  return {seconds, static_cast<double>(tokens), model.memory_bytes() + state.bytes()};
}

template <mamba::Config config, class Precision, class Mixer>
PromptModel prompt_model() {
  return {Mixer::name, mamba::precision_name<Precision>, config, forward<config, Precision, Mixer>};
}

inline constexpr mamba::Config mamba1{.d_model = 768, .d_state = 16}, mamba2{.d_model = 768, .d_state = 128};

}  // namespace

std::vector<PromptModel> scaling::prompt_models() {
  return {prompt_model<mamba1, float, mamba::Mamba1>(), prompt_model<mamba1, mamba::BFloat16, mamba::Mamba1>(),
          prompt_model<mamba2, float, mamba::Mamba2<64>>(), prompt_model<mamba2, mamba::BFloat16, mamba::Mamba2<64>>()};
}
