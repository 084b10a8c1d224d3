// The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes
// (github.com/huggingface/safetensors, README, "Format"). Reading is strict: a file that breaks a rule is refused with
// the rule. Beside what the format says, a key may not occur twice, a tensor has at most 64 dimensions, and its size
// overflows even where a dimension is 0.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/host_tensor.hpp>
#include <mamba/io/dtype.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>
#include <mamba/io/json_reader.hpp>

namespace mamba::io {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

using Metadata = std::map<std::string, std::string>;

inline constexpr std::size_t most_dimensions = 64;  // of a tensor, as NumPy

// The size of a tensor of this shape; none where it, or the product of the dimensions that are not 0, is beyond 64
// bits.
inline std::optional<std::uint64_t> size_in_bits(const std::vector<std::int64_t>& shape,
                                                 std::uint64_t bits_per_element) {
  std::uint64_t size = bits_per_element;
  bool empty = false;
  for (const std::int64_t extent : shape) {
    empty = empty || extent == 0;
    if (extent == 0) continue;
    if (extent < 0 || static_cast<std::uint64_t>(extent) > (std::numeric_limits<std::uint64_t>::max)() / size)
      return std::nullopt;
    size *= static_cast<std::uint64_t>(extent);
  }
  return empty ? 0 : size;
}

struct TensorInfo {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::size_t begin = 0, end = 0;  // in the data after the header
};

// A file read as a whole and checked. Every message about it begins with its path.
class SafetensorsFile {
 public:
  // Throws Error(bad_file) that names the file and the broken rule.
  static SafetensorsFile read(const std::filesystem::path& path) { return parse(read_file(path), path); }

  // The same of a file's bytes; `path` is for messages.
  static SafetensorsFile parse(std::vector<char> bytes, const std::filesystem::path& path = "a file in memory") {
    try {
      return {std::move(bytes), path};
    } catch (const Error& error) {
      fail(ErrorKind::bad_file, path.string(), " is not a valid safetensors file: ", error.what());
    }
  }

  const std::filesystem::path& path() const { return path_; }
  const Metadata& metadata() const { return metadata_; }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }

  // A tensor converted to T: from integers, BOOL and floats of 16 bits and more. Throws Error(bad_file) when it is
  // missing, of another dtype, or holds a value that T cannot (see convert).
  template <StoredNumber T>
  HostTensor<T> tensor(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) refuse("the tensor ", in_quotes(name), " is missing");
    const TensorInfo& info = found->second;
    const char* const data = bytes_.data() + data_ + info.begin;
    HostTensor<T> result{info.shape, {}};
    const bool numbers = visit_dtype(info.dtype, [&]<class Stored>(Stored stored, auto&& value_of) {
      result.values.resize((info.end - info.begin) / sizeof(Stored));
      for (std::size_t i = 0; i < result.values.size(); ++i) {
        std::memcpy(&stored, data + i * sizeof(Stored), sizeof(Stored));
        if (const auto value = value_of(stored); !convert(value, result.values[i]))
          refuse("element ", i, " of the tensor ", in_quotes(name), " is ", value_text(value), ", which is not ",
                 type_text<T>());
      }
    });
    if (!numbers) refuse("the tensor ", in_quotes(name), " is of dtype ", info.dtype, ", of which no numbers are made");
    return result;
  }

  // Throws Error(bad_file) about this file: its path and the parts.
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(ErrorKind::bad_file, path_.string(), ": ", parts...);
  }

 private:
  SafetensorsFile(std::vector<char> bytes, std::filesystem::path path)
      : path_(std::move(path)), bytes_(std::move(bytes)) {
    constexpr std::uint64_t largest_header = 100'000'000;
    check(bytes_.size() >= 8, "the file holds ", bytes_.size(), " bytes, too few for a header length");
    std::uint64_t header_size = 0;
    std::memcpy(&header_size, bytes_.data(), 8);
    check(header_size <= largest_header, "the header's length ", header_size, " is beyond the limit of ",
          largest_header);
    check(header_size <= bytes_.size() - 8, "the header's length ", header_size, " reaches beyond the file's ",
          bytes_.size(), " bytes");
    data_ = 8 + static_cast<std::size_t>(header_size);

    JsonReader json(std::string_view(bytes_.data() + 8, static_cast<std::size_t>(header_size)));
    check(json.kind() == JsonReader::Kind::object, "the header does not begin with {");
    std::vector<std::pair<std::size_t, std::size_t>> spans;
    json.object([&](std::string_view name) {
      if (name == "__metadata__") return read_metadata(json);
      TensorInfo info = read_entry(json, name);
      spans.emplace_back(info.begin, info.end);
      tensors_.emplace(name, std::move(info));
    });
    json.end();

    std::sort(spans.begin(), spans.end());
    std::size_t reached = 0;
    for (const auto& [begin, end] : spans) {
      check(begin == reached, "the tensors' bytes are not contiguous at ", reached);
      reached = end;
    }
    check(reached == data_size(), "the file holds ", data_size() - reached, " bytes that belong to no tensor");
  }

  template <class... Rule>
  static void check(bool holds, const Rule&... rule) {
    if (!holds) fail(ErrorKind::bad_file, rule...);
  }
  std::size_t data_size() const { return bytes_.size() - data_; }

  // Null is as good as none.
  void read_metadata(JsonReader& json) {
    if (json.kind() == JsonReader::Kind::null) return json.null();
    std::string room;
    json.object([&](std::string_view key) {
      std::string name(key);
      metadata_.emplace(std::move(name), json.string(room));
    });
  }

  // A tensor's dtype, shape and data_offsets, in any order; what else is said of it is passed over.
  TensorInfo read_entry(JsonReader& json, std::string_view name) const {
    using Kind = JsonReader::Kind;
    const std::string tensor = joined("the tensor ", in_quotes(name));
    const auto expect = [&](Kind kind, const char* expected) {
      check(json.kind() == kind, tensor, ": expected ", expected);
    };
    TensorInfo info;
    bool has_dtype = false, has_shape = false, has_offsets = false;
    std::uint64_t offsets[2] = {0, 0};
    std::string room;

    expect(Kind::object, "an object");
    json.object([&](std::string_view key) {
      if (key == "dtype") {
        expect(Kind::string, "a string as dtype");
        info.dtype = json.string(room), has_dtype = true;
      } else if (key == "shape") {
        expect(Kind::array, "an array as shape");
        json.array([&] {
          check(info.shape.size() < most_dimensions, tensor, " has more than ", most_dimensions, " dimensions");
          expect(Kind::number, "an integer as dimension");
          info.shape.push_back(dimension(json.number(), tensor));
        });
        has_shape = true;
      } else if (key == "data_offsets") {
        expect(Kind::array, "an array as data_offsets");
        std::size_t count = 0;
        json.array([&] {
          check(count < 2, tensor, "'s data_offsets are not two");
          expect(Kind::number, "an integer as offset");
          const std::string_view text = json.number();
          const auto offset = integer_of<std::uint64_t>(text);
          check(offset.has_value(), tensor, "'s offset ", text.substr(0, 40),
                " is not an integer from 0 on that 64 bits hold");
          offsets[count++] = *offset;
        });
        check(count == 2, tensor, "'s data_offsets are not two");
        has_offsets = true;
      } else {
        json.skip();
      }
    });
    check(has_dtype, tensor, " lacks its dtype");
    check(has_shape, tensor, " lacks its shape");
    check(has_offsets, tensor, " lacks its data_offsets");

    const std::uint64_t size = size_in_bytes(info, tensor);
    const auto [begin, end] = offsets;
    check(begin <= end && end <= data_size(), tensor, "'s data_offsets [", begin, ", ", end,
          "] are not inside the file's ", data_size(), " data bytes");
    check(end - begin == size, tensor, "'s shape and dtype need ", size, " bytes; its data_offsets span ", end - begin);
    info.begin = static_cast<std::size_t>(begin), info.end = static_cast<std::size_t>(end);
    return info;
  }

  static std::int64_t dimension(std::string_view text, const std::string& tensor) {
    check(!text.starts_with('-'), tensor, " has the negative dimension ", text.substr(0, 40));
    const auto extent = integer_of<std::int64_t>(text);
    check(extent.has_value(), tensor, "'s dimension ", text.substr(0, 40), " is not an integer that 63 bits hold");
    return *extent;
  }

  static std::uint64_t size_in_bytes(const TensorInfo& info, const std::string& tensor) {
    const unsigned bits = dtype_bits(info.dtype);
    check(bits != 0, tensor, " has the unknown dtype ", in_quotes(info.dtype));
    const auto size = size_in_bits(info.shape, bits);
    check(size.has_value(), tensor, "'s shape overflows");
    check(*size % 8 == 0, tensor, "'s shape and dtype need ", *size, " bits, which are no whole bytes");
    return *size / 8;
  }

  std::filesystem::path path_;
  std::vector<char> bytes_;
  std::size_t data_ = 0;
  Metadata metadata_;
  std::map<std::string, TensorInfo> tensors_;
};

// Collects tensors and writes them as one file, in the order of their addition.
class SafetensorsWriter {
 public:
  // Throws Error(invalid_argument) for what no reader would take: values that are not as many as the shape says, a name
  // that is there already or is the metadata's, more dimensions than a file may have.
  template <WrittenNumber T>
  void add(const std::string& name, const HostTensor<T>& tensor) {
    require(name != "__metadata__" && !names_.contains(name),
            "a file has one tensor of a name, and none called __metadata__; given ", in_quotes(name));
    require(tensor.shape.size() <= most_dimensions, "the tensor ", in_quotes(name), " has ", tensor.shape.size(),
            " dimensions; a file's may have ", most_dimensions);
    names_.insert(name);
    const std::size_t begin = data_.size(), size = tensor.values.size() * sizeof(T);
    require(size_in_bits(tensor.shape, 8 * sizeof(T)) == 8 * size, "the tensor ", in_quotes(name), " has ",
            tensor.values.size(), " values, not those of its shape");
    const char* const bytes = reinterpret_cast<const char*>(tensor.values.data());
    data_.insert(data_.end(), bytes, bytes + size);
    Json::Elements shape, offsets;
    for (const std::int64_t extent : tensor.shape) shape.emplace_back(extent);
    for (const std::size_t offset : {begin, data_.size()}) offsets.emplace_back(static_cast<std::uint64_t>(offset));
    header_.emplace_back(
        name,
        Json::Members{{"dtype", dtype_of<T>()}, {"shape", std::move(shape)}, {"data_offsets", std::move(offsets)}});
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
  std::set<std::string> names_;
  std::vector<char> data_;
};

}  // namespace mamba::io
