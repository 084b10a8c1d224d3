// Every parameter tensor of small models in double against central differences.
#include <catch2/catch_test_macros.hpp>

#include <mamba/composite.hpp>

#include "support/gradients.hpp"

using namespace mamba;

namespace {

inline constexpr Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 4};
inline constexpr Config odd_config{.vocab_size = 7, .d_model = 17, .d_state = 5, .d_conv = 3, .expand = 3};
inline constexpr Config narrow_config{.vocab_size = 3, .d_model = 1, .d_state = 1, .d_conv = 1, .expand = 1};

template <class Model>
void check_classifier(int batch, int length, std::vector<std::int32_t> lengths = {},
                      ModelOptions options = {.n_layers = 2, .seed = 3}) {
  INFO("batch " << batch << ", length " << length);
  Model model(options);
  const auto ids = support::random_tokens(static_cast<std::size_t>(batch * length), Model::config.vocab_size, 5);
  const auto labels = support::random_tokens(static_cast<std::size_t>(batch), Model::config.vocab_size, 6);
  support::check_gradients(model, [&] { return model.loss_and_gradients(ids, labels, lengths); });
}

}  // namespace

TEST_CASE("gradients of the classifier") {
  check_classifier<MambaForComposite<tiny_config, double>>(3, 8);
  check_classifier<MambaForComposite<tiny_config, double>>(1, 1);
  check_classifier<MambaForComposite<tiny_config, double>>(2, 3);   // shorter than the convolution
  check_classifier<MambaForComposite<tiny_config, double>>(1, 35);  // over chunks of the scan
  check_classifier<MambaForComposite<tiny_config, double>>(1, 16);
  check_classifier<MambaForComposite<tiny_config, double>>(2, 17);
  check_classifier<MambaForComposite<tiny_config, double>>(3, 9, {9, 1, 4});
  check_classifier<MambaForComposite<tiny_config, double>>(3, 8, {}, {.n_layers = 3, .gamma = 0.3, .seed = 4});
  check_classifier<MambaForComposite<odd_config, double>>(3, 7);
  check_classifier<MambaForComposite<narrow_config, double>>(2, 5);
  check_classifier<MambaForComposite<tiny_config, double, FrozenOnesConv>>(2, 8);
  check_classifier<MambaForComposite<odd_config, double, UntiedHead, LearnedPosition<9>>>(2, 7);
  check_classifier<MambaForComposite<tiny_config, double, Mamba2<4, 2, 1>>>(3, 9, {9, 1, 4});
#ifndef MAMBA_TEST_FEW_MODELS
  check_classifier<MambaForComposite<tiny_config, double, OnesConv>>(2, 8);
  check_classifier<MambaForComposite<tiny_config, double, UntiedHead>>(3, 8);
  check_classifier<MambaForComposite<tiny_config, double, Mamba2<4>, UntiedHead>>(3, 9, {9, 1, 4});
  check_classifier<MambaForComposite<tiny_config, double, Mamba2<4, 1, 2>>>(2, 3);
#endif
}

TEST_CASE("gradients of the language model") {
  MambaLMHeadModel<tiny_config, double> model({.n_layers = 2, .seed = 3});
  const auto ids = support::random_tokens(2 * 70, 11, 5);  // more rows than the head takes at once
  support::check_gradients(model, [&] { return model.loss_and_gradients(ids, 2); });
  support::check_gradients(model, [&] { return model.loss_and_gradients(ids, 2, std::vector<std::int32_t>{1, 37}); });
  MambaLMHeadModel<tiny_config, double, UntiedHead> untied({.n_layers = 2, .seed = 3});
  support::check_gradients(untied, [&] { return untied.loss_and_gradients(ids, 2); });
}
