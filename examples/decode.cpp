// One token after the other: a prompt goes through a state, then each step reads the token that the last one made most
// likely.
#include <algorithm>
#include <cstdio>
#include <vector>

#include <mamba/language_model.hpp>

inline constexpr mamba::Config config{.vocab_size = 64, .d_model = 32, .d_state = 16};

int main() {
  mamba::MambaLMHeadModel<config> model({.n_layers = 2, .seed = 1});
  const std::vector<std::int32_t> prompt{3, 1, 4, 1, 5};
  auto state = model.initial_state(1);
  const auto behind_prompt = model.prefill(prompt, 1, state);
  const auto likeliest = [](auto logits) {
    return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.begin() + config.vocab_size) -
                                     logits.begin());
  };
  std::vector<std::int32_t> text = prompt;
  text.push_back(likeliest(behind_prompt.row(0)));
  for (int i = 0; i < 10; ++i) text.push_back(likeliest(model.step({&text.back(), 1}, state).row(0)));
  for (const std::int32_t token : text) std::printf("%d ", token);
  std::printf("\n");

  // The same tokens as a whole make the same choice at the end.
  const auto all = model.logits(std::vector<std::int32_t>(text.begin(), text.end() - 1), 1);
  return likeliest(all.row(all.rows() - 1)) == text.back() ? 0 : 1;
}
