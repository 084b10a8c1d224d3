// Bytes as a safetensors file: every tensor in every type, and what can be read as a file of our own again.
#include <mamba/io/safetensors.hpp>

#include "mutator.hpp"
#include "target.hpp"

namespace io = mamba::io;

namespace {

template <class T>
void read_as(const io::SafetensorsFile& file, const std::string& name) {
  mamba::HostTensor<T> tensor;
  if (!fuzz::accepted([&] { tensor = file.tensor<T>(name); })) return;
  fuzz::must(tensor.shape == file.tensors().at(name).shape, "a tensor has the shape of its entry");
  fuzz::must(io::size_in_bits(tensor.shape, 1) == tensor.values.size(),
             "a tensor has as many values as its shape says");
  io::SafetensorsWriter().add(name, tensor);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  std::optional<io::SafetensorsFile> file;
  if (!fuzz::accepted([&] { file.emplace(io::SafetensorsFile::parse({bytes, bytes + size}, "input")); })) return 0;
  for (const auto& [name, info] : file->tensors()) {
    read_as<float>(*file, name), read_as<double>(*file, name);
    read_as<std::int8_t>(*file, name), read_as<std::uint8_t>(*file, name);
    read_as<std::int32_t>(*file, name), read_as<std::uint32_t>(*file, name);
    read_as<std::int64_t>(*file, name), read_as<std::uint64_t>(*file, name);
  }
  (void)fuzz::accepted([&] { (void)file->tensor<float>("none"); });
  return 0;
}
