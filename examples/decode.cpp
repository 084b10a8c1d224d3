// One token after the other: a prompt goes through a state, then each call reads the token that the last one chose.
#include <cstdio>
#include <vector>

#include <mamba/language_model.hpp>

inline constexpr mamba::Config config{.vocab_size = 64, .d_model = 32, .d_state = 16};

int main() {
  mamba::MambaLMHeadModel<config> model({.n_layers = 2, .seed = 1});
  std::vector<std::int32_t> text{3, 1, 4, 1, 5};
  auto state = model.initial_state(1);
  text.push_back(model.next_tokens(text, 1, state).front());
  for (int i = 0; i < 10; ++i) text.push_back(model.next_tokens({&text.back(), 1}, 1, state).front());
  for (const std::int32_t token : text) std::printf("%d ", token);
  std::printf("\n");

  // The same tokens as a whole make the same choice at the end.
  auto fresh = model.initial_state(1);
  const std::vector<std::int32_t> all_but_last(text.begin(), text.end() - 1);
  return model.next_tokens(all_but_last, 1, fresh).front() == text.back() ? 0 : 1;
}
