// Reference files and the one formula by which results are compared with them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <mamba/io/json.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/model/model.hpp>

#include "support/scratch.hpp"

namespace support {

inline mamba::io::SafetensorsFile reference(const std::string& name) {
  return mamba::io::SafetensorsFile::read(std::filesystem::path(MAMBA_TEST_DATA) / (name + ".safetensors"));
}

inline std::vector<std::int32_t> tokens(const mamba::io::SafetensorsFile& file, const std::string& name) {
  return file.tensor<std::int32_t>(name).values;
}

inline int layers_of(const mamba::io::SafetensorsFile& file) {
  return mamba::io::Json::parse(file.metadata().at("config")).at("n_layers").integer<int>();
}

// ||a - b|| / max(||b||, floor); infinite for NaN or another size.
template <class A, class B>
double relative_error(const A& a, const B& b, double floor = 0) {
  if (std::size(a) != std::size(b)) return std::numeric_limits<double>::infinity();
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < std::size(b); ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  if (difference == 0) return 0;
  const double error = std::sqrt(difference) / std::max(std::sqrt(norm), floor);
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : error;
}

// The larger of a largest number so far and another; infinite if that is no number, which a comparison would pass over.
inline double larger(double largest, double x) {
  return std::isnan(x) ? std::numeric_limits<double>::infinity() : std::max(largest, x);
}

template <class Scalar>
std::vector<Scalar> values(const mamba::Matrix<Scalar>& m) {
  return {m.data(), m.data() + m.rows() * m.cols()};
}

// The file's tensors whose names begin with the prefix, without it.
template <class Scalar>
mamba::StateDict<Scalar> tensors(const mamba::io::SafetensorsFile& file, const std::string& prefix) {
  mamba::StateDict<Scalar> dict;
  for (const auto& [name, info] : file.tensors())
    if (name.starts_with(prefix)) dict.emplace(name.substr(prefix.size()), file.tensor<Scalar>(name));
  return dict;
}

// Small pseudo-random token ids.
inline std::vector<std::int32_t> random_tokens(std::size_t count, int below, std::uint64_t seed) {
  std::vector<std::int32_t> ids(count);
  for (std::size_t i = 0; i < count; ++i)
    ids[i] = static_cast<std::int32_t>(mamba::random_below(
        mamba::random_words(seed, mamba::RandomPurpose::task, 99, i).word[0], static_cast<std::uint32_t>(below)));
  return ids;
}

// Uniform numbers in -1 .. 1.
inline double random_number(std::uint64_t seed, std::uint64_t i) {
  const auto r = mamba::random_words(seed, mamba::RandomPurpose::task, 98, i);
  return 2 * mamba::random_uniform(r.word[0], r.word[1]) - 1;
}

}  // namespace support
