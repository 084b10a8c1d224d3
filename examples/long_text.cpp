// A long text in pieces: truncated back-propagation through time, then the whole text's gradients in memory for a
// piece.
#include <cmath>
#include <cstdio>
#include <vector>

#include <mamba/language_model.hpp>
#include <mamba/train/optimizer.hpp>

inline constexpr mamba::Config config{.vocab_size = 64, .d_model = 32, .d_state = 16};
using Model = mamba::MambaLMHeadModel<config>;

int main() {
  constexpr int pieces = 8, length = 125;  // 1000 tokens to predict
  std::vector<std::int32_t> text(pieces * length + 1);
  for (std::size_t t = 0; t < text.size(); ++t) text[t] = static_cast<std::int32_t>(t * t / 7 % 64);
  const auto piece = [&](int k) {  // each begins with the token that the one before ended with
    return std::span<const std::int32_t>(text).subspan(static_cast<std::size_t>(k * length), length + 1);
  };
  Model model({.n_layers = 2, .seed = 1});

  // Truncated: the state goes on, the gradients end where a piece begins.
  mamba::AdamW optimizer(model, {.lr = 3e-3});
  double first = 0, last = 0;
  for (int epoch = 0; epoch < 4; ++epoch) {
    auto state = model.initial_state(1);
    last = 0;
    for (int k = 0; k < pieces; ++k) {
      last += model.loss_and_gradients(piece(k), 1, state) / pieces;
      mamba::clip_grad_norm(model, 1.0);
      optimizer.step();
    }
    if (epoch == 0) first = last;
  }
  std::printf("loss %.3f, after four epochs %.3f\n", first, last);

  // Exact: forward to where each piece begins, then backward from the last one on.
  std::vector<mamba::State<Model::Architecture>> states{model.initial_state(1)};
  for (int k = 0; k + 1 < pieces; ++k) {
    states.push_back(states.back());
    model.prefill(piece(k).first(length), 1, states.back());
  }
  auto of_state = model.initial_state(1);  // zeros: nothing follows the last piece
  for (int k = pieces - 1; k >= 0; --k)
    model.loss_and_gradients(piece(k), 1, states[static_cast<std::size_t>(k)],
                             {.of_state = &of_state, .weight = 1.0 / (pieces * length), .accumulate = k < pieces - 1});
  const double in_pieces = mamba::clip_grad_norm(model, 1e9);
  model.loss_and_gradients(text, 1);
  const double whole = mamba::clip_grad_norm(model, 1e9);
  std::printf("gradient's norm in pieces %.6f, of the whole text %.6f\n", in_pieces, whole);
  return last < first && std::abs(in_pieces - whole) < 1e-4 * whole ? 0 : 1;
}
