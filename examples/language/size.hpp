// A language model's sizes in the words of sizes.cmake, whose lines decide what the programs are built for.
#pragma once

#include <string>
#include <type_traits>

#include <mamba/language_model.hpp>
#include <mamba/model/save.hpp>

namespace language {

// A line of the table: what the size is called, and its fields.
struct SizeLine {
  const char *name, *fields;
};

namespace detail {
// Who has no convolution is of any d_conv: of the usual one.
inline std::string fields(const std::string& mixer, mamba::Config config, bool tied) {
  if (mixer.starts_with("mamba3")) config.d_conv = mamba::Config{}.d_conv;
  std::string text = mixer;
  for (const int size : {config.d_model, config.vocab_size, config.d_state, config.d_conv, config.expand})
    text += " " + std::to_string(size);
  return text + (tied ? " tied" : " untied");
}
inline std::string mamba3(int headdim, const mamba::Mamba3Config& own) {
  return "mamba3:" + std::to_string(headdim) + ":" + std::to_string(own.ngroups) + ":" + std::to_string(own.rank) +
         (own.rotates_all ? ":all" : ":half") + (own.output_norm ? ":norm" : "") +
         (own.softplus_rate ? ":softplus" : "");
}
inline std::string heads(int headdim, int ngroups, int norm_groups) {
  return "mamba2:" + std::to_string(headdim) + ":" + std::to_string(ngroups) + ":" + std::to_string(norm_groups);
}
}  // namespace detail

// The fields of what a folder holds.
inline std::string fields_of(const mamba::ModelDescription& m) {
  std::string mixer = m.mixer;
  if (mixer == "mamba2") mixer = detail::heads(m.headdim, m.ngroups, m.norm_groups.value_or(m.ngroups));
  else if (mixer == "mamba3")
    mixer = detail::mamba3(m.headdim, {.ngroups = m.ngroups,
                                       .rank = m.rank,
                                       .rotates_all = m.rotates_all,
                                       .output_norm = m.output_norm,
                                       .softplus_rate = m.softplus_rate.value_or(false)});
  return detail::fields(mixer, m.config, m.tied);
}

// The fields of a type.
template <class Model>
std::string fields_of() {
  using A = typename Model::Architecture;
  std::string mixer = A::Mixer::name;
  if constexpr (requires { A::Mixer::headdim; })
    mixer = detail::heads(A::Mixer::headdim, A::Mixer::ngroups, A::Mixer::norm_groups);
  if constexpr (requires { mamba::network::MixerOf<A>::Na; })
    mixer = detail::mamba3(mamba::network::MixerOf<A>::P, A::Mixer::config);
  return detail::fields(mixer, A::config, std::is_same_v<typename A::Head, mamba::TiedHead>);
}

}  // namespace language
