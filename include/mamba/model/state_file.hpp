// Decoding states as safetensors files (specification, section 8.2).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <mamba/core/finite.hpp>
#include <mamba/core/host_tensor.hpp>
#include <mamba/engine/state.hpp>
#include <mamba/io/load_options.hpp>
#include <mamba/io/safetensors.hpp>

namespace mamba {

// A state among the tensors of a file, each name behind `prefix`.
template <class A>
void add_state(io::SafetensorsWriter& writer, const State<A>& state, const std::string& prefix = "") {
  writer.add(prefix + "conv_state", state.history_tensor());
  writer.add(prefix + "ssm_state", state.state_tensor());
  writer.add(prefix + "positions",
             HostTensor<std::int32_t>{{state.batch()}, {state.positions().begin(), state.positions().end()}});
}

// The same back. Returns how many of its numbers are not finite. Throws Error(bad_file), and changes nothing, when the
// file is of another model or batch, or holds such numbers and options refuse them.
template <class A>
Nonfinite restore_state(State<A>& state, const io::SafetensorsFile& file, const std::string& prefix = "",
                        const LoadOptions& options = {}) {
  using T = typename A::Scalar;
  StateDict<T> dict;
  for (const char* name : {"conv_state", "ssm_state"}) dict.emplace(name, file.tensor<T>(prefix + name));
  return io::naming(file.path(), [&] {
    const Nonfinite found = options.checked(dict);
    state.restore(dict.at("conv_state"), dict.at("ssm_state"), file.tensor<int>(prefix + "positions").values);
    return found;
  });
}

// Throws Error(cannot_write); what stood at the path then still does.
template <class A>
void save(const State<A>& state, const std::filesystem::path& path) {
  io::SafetensorsWriter writer;
  add_state(writer, state);
  writer.write(path, {});
}

// As restore_state(), of a file that save() wrote.
template <class A>
Nonfinite load(State<A>& state, const std::filesystem::path& path, const LoadOptions& options = {}) {
  return restore_state(state, io::SafetensorsFile::read(path), "", options);
}

}  // namespace mamba
