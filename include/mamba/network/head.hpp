// The head: the norm behind the stack, and the weight whose rows its logits are products with (specification,
// section 3).
#pragma once

#include <type_traits>

#include <mamba/core/macros.hpp>
#include <mamba/core/policies.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba::network {

// What each head policy means; one without a line here does not compile.
enum class HeadKind {
  tied,    // the embedding's weight
  untied,  // one of its own, lm_head.weight
};
template <class Head>
constexpr HeadKind head_of() {
  if constexpr (std::is_same_v<Head, TiedHead>) return HeadKind::tied;
  else if constexpr (std::is_same_v<Head, UntiedHead>) return HeadKind::untied;
  else
    static_assert(sizeof(Head) == 0,
                  "mamba: what this head policy means is written nowhere (network/head.hpp, head_of)");
}

// A weight of its own starts as PyTorch's linear layers do; mamba_ssm leaves it so.
template <class A>
constexpr auto head_parameters() {
  constexpr int D = A::config.d_model;
  const ParameterTable<1> norm{vector_parameter("backbone.norm_f.weight", Role::norm, D, Law::constant, 1)};
  if constexpr (head_of<typename A::Head>() == HeadKind::untied)
    return join(norm, ParameterTable<1>{matrix_parameter("lm_head.weight", Role::head, A::config.padded_vocab_size(), D,
                                                         Law::uniform, 1 / table_sqrt(D))});
  else return norm;
}

// The head's (Vp, D) of a model's weights, or of its gradients.
MAMBA_COMPOSITION
template <class A, class Model>
MAMBA_HOST_DEVICE auto head_weight(const Model& of) {
  constexpr HeadKind kind = head_of<typename A::Head>();
  if constexpr (kind == HeadKind::untied) return of.back().template get<"lm_head.weight">();
  else return of.front().template get<"backbone.embedding.weight">();
}

}  // namespace mamba::network
