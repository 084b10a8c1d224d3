// The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes (github.com/huggingface/safetensors,
// README, "Format"). Reading is strict: a file that breaks a rule is refused with the rule.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/tensor.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>

namespace mamba::io {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

using Metadata = std::map<std::string, std::string>;

namespace detail {

inline std::size_t item_size(std::string_view dtype) {
  struct Item {
    std::string_view name;
    std::size_t size;
  };
  static constexpr Item items[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
                                   {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"F64", 8},     {"I64", 8}, {"U64", 8}};
  for (const Item& item : items)
    if (item.name == dtype) return item.size;
  return 0;
}

inline float from_half(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000U) << 16, exponent = bits >> 10 & 31U, fraction = bits & 1023U;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent == 31 ? 255U : exponent + 112U) << 23 | fraction << 13);
}

}  // namespace detail

struct TensorInfo {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::size_t begin = 0, end = 0;  // in the data after the header
};

// A file read as a whole and checked.
class SafetensorsFile {
 public:
  // Throws Error(bad_file) that names the file and the broken rule.
  static SafetensorsFile read(const std::filesystem::path& path) {
    try {
      return SafetensorsFile(read_file(path));
    } catch (const Error& error) {
      if (std::string_view(error.what()).starts_with("cannot ")) throw;
      fail(ErrorKind::bad_file, path.string(), " is not a valid safetensors file: ", error.what());
    }
  }

  const Metadata& metadata() const { return metadata_; }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }

  // A tensor converted to T: from any dtype but the 8-bit floats.
  template <class T>
  HostTensor<T> tensor(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) fail(ErrorKind::bad_file, "the tensor ", name, " is missing");
    const TensorInfo& info = found->second;
    HostTensor<T> result{info.shape, {}};
    const auto convert = [&]<class Stored>(Stored, auto&& widen) {
      result.values.reserve((info.end - info.begin) / sizeof(Stored));
      for (std::size_t at = info.begin; at < info.end; at += sizeof(Stored)) {
        Stored value;
        std::memcpy(&value, bytes_.data() + data_ + at, sizeof(Stored));
        result.values.push_back(static_cast<T>(widen(value)));
      }
    };
    const auto same = [](auto x) { return x; };
    const std::string_view d = info.dtype;
    if (d == "F32") convert(float{}, same);
    else if (d == "F64") convert(double{}, same);
    else if (d == "F16") convert(std::uint16_t{}, detail::from_half);
    else if (d == "BF16") convert(std::uint16_t{}, [](std::uint16_t x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16); });
    else if (d == "I64") convert(std::int64_t{}, same);
    else if (d == "U64") convert(std::uint64_t{}, same);
    else if (d == "I32") convert(std::int32_t{}, same);
    else if (d == "U32") convert(std::uint32_t{}, same);
    else if (d == "I16") convert(std::int16_t{}, same);
    else if (d == "U16") convert(std::uint16_t{}, same);
    else if (d == "I8") convert(std::int8_t{}, same);
    else if (d == "U8" || d == "BOOL") convert(std::uint8_t{}, same);
    else fail(ErrorKind::bad_file, "the tensor ", name, " is of dtype ", d, ", which is not read into numbers");
    return result;
  }

 private:
  explicit SafetensorsFile(std::vector<char> bytes) : bytes_(std::move(bytes)) {
    constexpr std::uint64_t largest_header = 100'000'000;
    const auto check = [](bool holds, const auto&... rule) {
      if (!holds) fail(ErrorKind::bad_file, rule...);
    };
    check(bytes_.size() >= 8, "the file holds ", bytes_.size(), " bytes, too few for a header length");
    std::uint64_t header_size = 0;
    std::memcpy(&header_size, bytes_.data(), 8);
    check(header_size <= largest_header, "the header's length ", header_size, " is beyond the limit of ", largest_header);
    check(header_size <= bytes_.size() - 8, "the header's length ", header_size, " reaches beyond the file's ", bytes_.size(), " bytes");
    data_ = 8 + static_cast<std::size_t>(header_size);
    const std::string_view text(bytes_.data() + 8, static_cast<std::size_t>(header_size));
    check(text.starts_with('{'), "the header does not begin with {");
    const Json header = Json::parse(text);
    const std::size_t data_size = bytes_.size() - data_;

    std::vector<std::pair<std::size_t, std::size_t>> spans;
    for (const auto& [name, entry] : header.members()) {
      if (name == "__metadata__") {
        for (const auto& [key, value] : entry.members()) metadata_.emplace(key, value.string());
        continue;
      }
      for (const auto& [key, value] : entry.members())
        check(key == "dtype" || key == "shape" || key == "data_offsets", name, " has an unknown key \"", key, "\"");
      TensorInfo info{.dtype = entry.at("dtype").string(), .shape = {}};
      const std::size_t item = detail::item_size(info.dtype);
      check(item != 0, name, " has the unknown dtype ", info.dtype);
      std::size_t size = item;
      bool empty = false;
      for (const Json& dimension : entry.at("shape").elements()) {
        const auto extent = dimension.integer<std::int64_t>();
        check(extent >= 0, name, " has a negative dimension");
        info.shape.push_back(extent);
        empty = empty || extent == 0;
        if (extent > 0) {
          check(static_cast<std::uint64_t>(extent) <= std::numeric_limits<std::size_t>::max() / size, name, "'s shape overflows");
          size *= static_cast<std::size_t>(extent);
        }
      }
      if (empty) size = 0;
      const auto& offsets = entry.at("data_offsets").elements();
      check(offsets.size() == 2, name, "'s data_offsets are not two");
      const auto begin = offsets[0].integer<std::uint64_t>(), end = offsets[1].integer<std::uint64_t>();
      check(begin <= end && end <= data_size, name, "'s data_offsets [", begin, ", ", end, "] are not inside the file's ", data_size, " data bytes");
      info.begin = static_cast<std::size_t>(begin), info.end = static_cast<std::size_t>(end);
      check(info.end - info.begin == size, name, "'s shape and dtype need ", size, " bytes; its data_offsets span ", info.end - info.begin);
      spans.emplace_back(info.begin, info.end);
      tensors_.emplace(name, std::move(info));
    }
    std::sort(spans.begin(), spans.end());
    std::size_t reached = 0;
    for (const auto& [begin, end] : spans) {
      check(begin == reached, "the tensors' bytes are not contiguous at ", reached);
      reached = end;
    }
    check(reached == data_size, "the file holds ", data_size - reached, " bytes that belong to no tensor");
  }

  std::vector<char> bytes_;
  std::size_t data_ = 0;
  Metadata metadata_;
  std::map<std::string, TensorInfo> tensors_;
};

// Collects tensors and writes them as one file, in the order of their addition.
class SafetensorsWriter {
 public:
  template <class T>
  void add(const std::string& name, const HostTensor<T>& tensor) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    const char* const dtype = std::is_same_v<T, float> ? "F32" : std::is_same_v<T, double> ? "F64" : sizeof(T) == 4 ? "I32" : "I64";
    Json::Elements shape;
    for (const std::int64_t extent : tensor.shape) shape.emplace_back(extent);
    const std::size_t begin = data_.size(), size = tensor.values.size() * sizeof(T);
    const char* const bytes = reinterpret_cast<const char*>(tensor.values.data());
    data_.insert(data_.end(), bytes, bytes + size);
    header_.emplace_back(name, Json::Members{{"dtype", dtype},
                                             {"shape", std::move(shape)},
                                             {"data_offsets", Json::Elements{static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(data_.size())}}});
  }

  // Throws Error(cannot_write); what stood at the path then still does.
  void write(const std::filesystem::path& path, const Metadata& metadata) const {
    Json::Members header;
    if (!metadata.empty()) {
      Json::Members entries;
      for (const auto& [key, value] : metadata) entries.emplace_back(key, value);
      header.emplace_back("__metadata__", std::move(entries));
    }
    header.insert(header.end(), header_.begin(), header_.end());
    std::string text = Json(std::move(header)).dump();
    text.append((8 - text.size() % 8) % 8, ' ');
    const std::uint64_t size = text.size();
    char length[8];
    std::memcpy(length, &size, 8);
    write_file(path, {std::string_view(length, 8), text, std::string_view(data_.data(), data_.size())});
  }

 private:
  Json::Members header_;
  std::vector<char> data_;
};

}  // namespace mamba::io
