// The safetensors format: 8 bytes of header length, a JSON header, the tensors' bytes
// (github.com/huggingface/safetensors, README, "Format"). Reading is strict: a file that breaks a rule is refused with
// the rule; of a large one, which is mapped, only the header is looked at before somebody asks for a tensor's elements,
// and tensors are written as their elements come. Beside what the format says, a key may not occur twice, a tensor has
// at most 64 dimensions, and its size overflows even where a dimension is 0.
#pragma once

#include <algorithm>
#include <bit>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/host_tensor.hpp>
#include <mamba/io/dtype.hpp>
#include <mamba/io/file.hpp>
#include <mamba/io/json.hpp>
#include <mamba/io/json_reader.hpp>
#include <mamba/io/mapped_file.hpp>

namespace mamba::io {

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

using Metadata = std::map<std::string, std::string>;

inline constexpr std::size_t most_dimensions = 64;            // of a tensor, as NumPy
inline constexpr std::uint64_t largest_header = 100'000'000;  // in bytes, as every reader has it

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

class SafetensorsFile;

// A tensor where it lies in its file, of which no element is read before it is asked for. For as long as the
// SafetensorsFile that gave it lives, and stays where it is.
class TensorView {
 public:
  const std::string& name() const { return *name_; }
  const TensorInfo& info() const { return *info_; }

  // Whether numbers are made of its dtype, and whether each of them can be a T.
  bool holds_numbers() const {
    return visit_dtype(info_->dtype, [](auto, auto&&) {});
  }
  template <StoredNumber T>
  bool always_converts_to() const {
    bool always = false;
    visit_dtype(info_->dtype, [&](auto stored, auto&& value_of) {
      always = always_converts<T, std::remove_cvref_t<decltype(value_of(stored))>>;
    });
    return always;
  }

  // to[i] <- element first + i in the order of rows, for i < count, converted to T: from integers, BOOL and floats of
  // 16 bits and more, at any place in the file. The elements must be there. Throws Error(bad_file) for another dtype,
  // a value that T cannot hold (see convert), and where the file is changed meanwhile; then some of `to` is written.
  template <StoredNumber T>
  void read(std::size_t first, std::size_t count, T* to) const;

 private:
  friend class SafetensorsFile;
  TensorView(const SafetensorsFile& file, const std::string& name, const TensorInfo& info)
      : file_(&file), name_(&name), info_(&info) {}

  const SafetensorsFile* file_;
  const std::string* name_;
  const TensorInfo* info_;
};

// A file that is mapped and whose header is checked. Copies share the mapping. Every message about it begins with its
// path.
class SafetensorsFile {
 public:
  // Throws Error(bad_file) that names the file and the broken rule.
  static SafetensorsFile read(const std::filesystem::path& path) {
    return checked(std::make_shared<const MappedFile>(path), path);
  }

  // The same of a file's bytes; `path` is for messages.
  static SafetensorsFile parse(std::vector<char> bytes, const std::filesystem::path& path = "a file in memory") {
    return checked(std::make_shared<const MappedFile>(std::move(bytes)), path);
  }

  const std::filesystem::path& path() const { return path_; }
  const Metadata& metadata() const { return metadata_; }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }

  // A tensor as it lies in the file. Throws Error(bad_file) when it is missing.
  TensorView view(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) refuse("the tensor ", in_quotes(name), " is missing");
    return {*this, found->first, found->second};
  }

  // A tensor converted to T. Throws Error(bad_file) when it is missing, and as TensorView::read does.
  template <StoredNumber T>
  HostTensor<T> tensor(const std::string& name) const {
    const TensorView found = view(name);
    if (!found.holds_numbers()) refuse_dtype(found);
    HostTensor<T> result{found.info().shape, {}};
    result.values.resize((found.info().end - found.info().begin) * 8 / dtype_bits(found.info().dtype));
    found.read(0, result.values.size(), result.values.data());
    return result;
  }

  // Throws Error(bad_file) about this file: its path and the parts.
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(ErrorKind::bad_file, path_.string(), ": ", parts...);
  }

 private:
  friend class TensorView;

  static SafetensorsFile checked(std::shared_ptr<const MappedFile> bytes, const std::filesystem::path& path) {
    try {
      return {std::move(bytes), path};
    } catch (const Error& error) {
      fail(ErrorKind::bad_file, path.string(), " is not a valid safetensors file: ", error.what());
    }
  }

  SafetensorsFile(std::shared_ptr<const MappedFile> mapped, std::filesystem::path path)
      : path_(std::move(path)), file_(std::move(mapped)), bytes_(file_->bytes()) {
    check(bytes_.size() >= 8, "the file holds ", bytes_.size(), " bytes, too few for a header length");
    std::uint64_t header_size = 0;
    std::memcpy(&header_size, bytes_.data(), 8);
    check(header_size <= largest_header, "the header's length ", header_size, " is beyond the limit of ",
          largest_header);
    check(header_size <= bytes_.size() - 8, "the header's length ", header_size, " reaches beyond the file's ",
          bytes_.size(), " bytes");
    data_ = 8 + static_cast<std::size_t>(header_size);

    // A copy: what is checked is what is used, whoever writes to the file meanwhile.
    const std::string text(bytes_.substr(8, static_cast<std::size_t>(header_size)));
    file_->check_unchanged();
    JsonReader json(text);
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
    file_->forget(0, data_);
  }

  template <class... Rule>
  static void check(bool holds, const Rule&... rule) {
    if (!holds) fail(ErrorKind::bad_file, rule...);
  }
  std::size_t data_size() const { return bytes_.size() - data_; }
  [[noreturn]] void refuse_dtype(const TensorView& tensor) const {
    refuse("the tensor ", in_quotes(tensor.name()), " is of dtype ", tensor.info().dtype,
           ", of which no numbers are made");
  }

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
  std::shared_ptr<const MappedFile> file_;
  std::string_view bytes_;
  std::size_t data_ = 0;
  Metadata metadata_;
  std::map<std::string, TensorInfo> tensors_;
};

template <StoredNumber T>
void TensorView::read(std::size_t first, std::size_t count, T* to) const {
  constexpr std::size_t at_once = std::size_t{1} << 18;  // elements between two looks at the file
  const bool numbers = visit_dtype(info_->dtype, [&]<class Stored>(Stored, auto&& value_of) {
    using Value = std::remove_cvref_t<decltype(value_of(Stored{}))>;
    const std::size_t begin = file_->data_ + info_->begin + first * sizeof(Stored);
    const char* const data = file_->bytes_.data() + begin;
    for (std::size_t done = 0; done < count;) {
      const std::size_t end = (std::min)(count, done + at_once);
      file_->file_->check_unchanged();
      if constexpr (std::same_as<T, Stored>) {
        std::memcpy(to + done, data + done * sizeof(Stored), (end - done) * sizeof(Stored));
      } else {
        for (std::size_t i = done; i < end; ++i) {
          Stored stored;
          std::memcpy(&stored, data + i * sizeof(Stored), sizeof(Stored));
          const Value value = value_of(stored);
          if constexpr (always_converts<T, Value>) to[i] = static_cast<T>(value);
          else if (!convert(value, to[i]))
            file_->refuse("element ", first + i, " of the tensor ", in_quotes(*name_), " is ", value_text(value),
                          ", which is not ", type_text<T>());
        }
      }
      file_->file_->forget(begin + done * sizeof(Stored), begin + end * sizeof(Stored));
      done = end;
    }
    file_->file_->check_unchanged();
  });
  if (!numbers) file_->refuse_dtype(*this);
}

// Collects tensors and writes them as one file, in the order of their addition.
class SafetensorsWriter {
 public:
  // A tensor whose values come when the file is written: put_values(put) puts as many as the shape says, in the order
  // of rows. Throws Error(invalid_argument) for what no reader would take: a name that is there already or is the
  // metadata's, a shape that is none or has more dimensions than a file may have.
  template <WrittenNumber T>
  void add(const std::string& name, const std::vector<std::int64_t>& shape,
           std::function<void(const Put&)> put_values) {
    require(name != "__metadata__" && !names_.contains(name),
            "a file has one tensor of a name, and none called __metadata__; given ", in_quotes(name));
    require(shape.size() <= most_dimensions, "the tensor ", in_quotes(name), " has ", shape.size(),
            " dimensions; a file's may have ", most_dimensions);
    const auto bits = size_in_bits(shape, 8 * sizeof(T));
    require(bits.has_value(), "the tensor ", in_quotes(name), "'s shape is none, or overflows");
    names_.insert(name);
    Json::Elements extents, offsets;
    for (const std::int64_t extent : shape) extents.emplace_back(extent);
    offsets.emplace_back(size_), offsets.emplace_back(size_ + *bits / 8);
    size_ += *bits / 8;
    header_.emplace_back(
        name,
        Json::Members{{"dtype", dtype_of<T>()}, {"shape", std::move(extents)}, {"data_offsets", std::move(offsets)}});
    values_.push_back({*bits / 8, std::move(put_values)});
  }

  // The same with the values, which are copied. Throws where they are not as many as the shape says, too.
  template <WrittenNumber T>
  void add(const std::string& name, const HostTensor<T>& tensor) {
    require(size_in_bits(tensor.shape, 8 * sizeof(T)) == 8 * sizeof(T) * tensor.values.size(), "the tensor ",
            in_quotes(name), " has ", tensor.values.size(), " values, not those of its shape");
    add<T>(name, tensor.shape, [values = tensor.values](const Put& put) {
      put({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
    });
  }

  // Of all tensors so far.
  std::uint64_t data_bytes() const { return size_; }

  // Throws Error(cannot_write), and what put_values throws; what stood at the path then still does.
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
    require(size <= largest_header, "a header of ", size, " bytes is longer than any reader takes, ", largest_header);
    char length[8];
    std::memcpy(length, &size, 8);
    write_file(path, [&](const Put& put) {
      put(std::string_view(length, 8));
      put(text);
      for (const Values& values : values_) {
        std::uint64_t written = 0;
        values.put([&](std::string_view piece) { written += piece.size(), put(piece); });
        require(written == values.bytes, "a tensor's values of ", values.bytes, " bytes are ", written);
      }
    });
  }

 private:
  struct Values {
    std::uint64_t bytes;
    std::function<void(const Put&)> put;
  };

  Json::Members header_;
  std::set<std::string> names_;
  std::vector<Values> values_;
  std::uint64_t size_ = 0;
};

}  // namespace mamba::io
