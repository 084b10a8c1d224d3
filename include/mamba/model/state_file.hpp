// Decoding states as safetensors files (specification, section 8.2).
#pragma once

#include <cstdint>
#include <filesystem>

#include <mamba/core/finite.hpp>
#include <mamba/core/host_tensor.hpp>
#include <mamba/engine/state.hpp>
#include <mamba/io/load_options.hpp>
#include <mamba/io/safetensors.hpp>

namespace mamba {

// Throws Error(cannot_write); what stood at the path then still does.
template <class A>
void save(const State<A>& state, const std::filesystem::path& path) {
  io::SafetensorsWriter writer;
  writer.add("conv_state", state.history_tensor());
  writer.add("ssm_state", state.state_tensor());
  writer.add("positions",
             HostTensor<std::int32_t>{{state.batch()}, {state.positions().begin(), state.positions().end()}});
  writer.write(path, {});
}

// Returns how many of its numbers are not finite. Throws Error(bad_file), and changes nothing, when the file is of
// another model or batch, or holds such numbers and options refuse them.
template <class A>
Nonfinite load(State<A>& state, const std::filesystem::path& path, const LoadOptions& options = {}) {
  using T = typename A::Scalar;
  const auto file = io::SafetensorsFile::read(path);
  StateDict<T> dict{{"conv_state", file.tensor<T>("conv_state")}, {"ssm_state", file.tensor<T>("ssm_state")}};
  return io::naming(path, [&] {
    const Nonfinite found = options.checked(dict);
    state.restore(dict.at("conv_state"), dict.at("ssm_state"), file.tensor<int>("positions").values);
    return found;
  });
}

}  // namespace mamba
