// A parameter's values on their way into a file: from where the model has them, in pieces.
#pragma once

#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include <mamba/core/storage.hpp>
#include <mamba/core/views.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba::detail {

// x rounded to what files are written in.
template <class Stored, class T>
Stored rounded_to(T x) {
  if constexpr (std::is_same_v<Stored, BFloat16>) return {static_cast<float>(x)};
  else return static_cast<Stored>(x);
}

// Puts the values of the first rows, row after row and without what pads them, as Stored. arena: the parameters'.
template <class Stored, class T>
void put_parameter(const PlacedParameter& p, std::size_t rows, const T* arena, const io::Put& put) {
  const auto columns = static_cast<std::size_t>(p.parameter.columns()),
             stride = static_cast<std::size_t>(padded(p.parameter.columns()));
  const T* const values = arena + p.offset;
  if constexpr (std::is_same_v<Stored, T>)
    if (columns == stride) return put({reinterpret_cast<const char*>(values), rows * columns * sizeof(T)});
  constexpr std::size_t most = std::size_t{1} << 16;
  std::vector<Stored> piece;
  piece.reserve(most);
  const auto send = [&] {
    put({reinterpret_cast<const char*>(piece.data()), piece.size() * sizeof(Stored)});
    piece.clear();
  };
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t i = 0; i < columns; ++i) {
      piece.push_back(rounded_to<Stored>(values[row * stride + i]));
      if (piece.size() == most) send();
    }
  send();
}

// Adds a parameter to a file, as Stored; its values are taken when that is written.
template <class Stored, class T>
void add_parameter(io::SafetensorsWriter& writer, const std::string& name, const PlacedParameter& p, const T* arena) {
  writer.add<Stored>(name, {p.parameter.shape, p.parameter.shape + p.parameter.rank}, [&p, arena](const io::Put& put) {
    put_parameter<Stored>(p, static_cast<std::size_t>(p.parameter.rows()), arena, put);
  });
}

}  // namespace mamba::detail
