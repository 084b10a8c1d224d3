// Steps of several sequences on the GPU beside the CPU's.
#pragma once

#include <initializer_list>

#include "support/cuda.hpp"

namespace support {

// On both sides of the numbers of sequences at which products go other ways and steps are recorded no more.
template <mamba::Config config, class Gpu, class... Policies>
void check_steps_of_many(std::initializer_list<int> batches,
                         const mamba::ModelOptions& options = {.n_layers = 2, .gamma = 0.5, .seed = 3}) {
  Pair<config, Gpu, Policies...> pair{.options = options};
  for (const int batch : batches) {
    INFO("batch " << batch);
    auto here = pair.cpu.initial_state(batch);
    auto there = pair.gpu.initial_state(batch);
    for (int t = 0; t < 4; ++t) {
      const auto tokens =
          random_tokens(static_cast<std::size_t>(batch), config.vocab_size, static_cast<std::uint64_t>(t));
      auto before = there;
      const auto expected = values(pair.cpu.step(tokens, here));
      const auto logits = pair.gpu.step(tokens, there);
      CHECK(relative_error(values(logits), expected) < 1e-5);
      // Tokens chosen on the device are those that its logits lead to on the host.
      for (const double temperature : {0.0, 0.9}) {
        const mamba::Sampling sampling{.temperature = temperature, .seed = 11};
        auto state = before;
        const std::vector<std::int32_t> chosen = pair.gpu.next_tokens(tokens, batch, state, sampling);
        CHECK(state.positions() == there.positions());
        std::vector<std::int32_t> on_host;
        for (int s = 0; s < batch; ++s)
          on_host.push_back(mamba::math::TokenChooser<float>(sampling, s, t + 1)(&logits(s, 0), config.vocab_size));
        CHECK(chosen == on_host);
      }
    }
  }
}

}  // namespace support
