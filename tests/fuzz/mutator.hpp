// libFuzzer's mutations, of a safetensors file's header or of its data, with a header length that fits again: without
// that, most mutations end at the first check. Included by one source of a program.
#pragma once

#ifdef MAMBA_LIBFUZZER

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* bytes, std::size_t size, std::size_t most);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* bytes, std::size_t size, std::size_t most, unsigned seed) {
  std::uint64_t header = 0;
  if (size >= 8) std::memcpy(&header, bytes, 8);
  if (size < 8 || header > size - 8 || seed % 8 == 0) return LLVMFuzzerMutate(bytes, size, most);
  const auto split = static_cast<std::ptrdiff_t>(8 + header);
  std::vector<std::uint8_t> text(bytes + 8, bytes + split), data(bytes + split, bytes + size);
  std::vector<std::uint8_t>& part = seed % 4 == 1 ? data : text;
  const std::size_t old = part.size(), room = most - (size - old);
  part.resize(room);
  part.resize(LLVMFuzzerMutate(part.data(), old, room));
  header = text.size();
  std::memcpy(bytes, &header, 8);
  std::copy(text.begin(), text.end(), bytes + 8);
  std::copy(data.begin(), data.end(), bytes + 8 + text.size());
  return 8 + text.size() + data.size();
}

#endif
