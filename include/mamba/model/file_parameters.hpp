// A model's parameters where they lie in files: everything that can be wrong with them is found there, before the first
// one is read into the model, and then they are read row by row to where the model has them. So what is refused changes
// nothing, and there is no second copy of what is loaded.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/core/views.hpp>
#include <mamba/io/load_options.hpp>
#include <mamba/io/safetensors.hpp>
#include <mamba/model/model.hpp>
#include <mamba/network/parameters.hpp>

namespace mamba::detail {

inline constexpr std::size_t elements_at_once = std::size_t{1} << 16;  // of a tensor that is looked at in pieces

// use(values) for pieces of a tensor, converted to T, one behind the other, until it returns false.
template <class T, class Use>
void for_each_piece(const io::TensorView& tensor, std::size_t size, Use&& use) {
  std::vector<T> piece((std::min)(size, elements_at_once));
  for (std::size_t at = 0; at < size; at += piece.size()) {
    piece.resize((std::min)(piece.size(), size - at));
    tensor.read(at, piece.size(), piece.data());
    if (!use(std::span<const T>(piece))) return;
  }
}

inline std::size_t elements_of(const io::TensorView& tensor) {
  std::size_t size = 1;
  for (const std::int64_t extent : tensor.info().shape) size *= static_cast<std::size_t>(extent);
  return size;
}

// Whether two tensors hold the same numbers, as T and by their bytes: a NaN in both is the same NaN.
template <class T>
bool same_values(const io::TensorView& a, const io::TensorView& b) {
  const std::size_t size = elements_of(a);
  if (elements_of(b) != size) return false;
  std::vector<T> other;
  std::size_t at = 0;
  bool same = true;
  for_each_piece<T>(a, size, [&](std::span<const T> values) {
    other.resize(values.size());
    b.read(at, values.size(), other.data());
    at += values.size();
    return same = std::memcmp(values.data(), other.data(), values.size_bytes()) == 0;
  });
  return same;
}

template <class A>
class FileParameters {
  using Scalar = typename A::Scalar;

 public:
  // The parameter of this name is that tensor, whose file must outlive this.
  void add(const std::string& own, const io::TensorView& tensor) {
    places_.emplace(own, Place{tensor, tensor.info().shape});
  }
  // The same; rows that the parameter has and the tensor lacks are zeros.
  void add_padded(const std::string& own, const io::TensorView& tensor, std::int64_t rows) {
    Place place{tensor, tensor.info().shape};
    place.shape.at(0) = rows;
    places_.emplace(own, std::move(place));
  }

  // A tied head's weight, where files hold it, is the embedding's: refuses another one.
  void take_tied_head() {
    const auto head = places_.find("lm_head.weight");
    if (head == places_.end()) return;
    const auto embedding = places_.find("backbone.embedding.weight");
    if (embedding == places_.end()) fail(ErrorKind::bad_file, "the parameter backbone.embedding.weight is missing");
    if (!same_values<Scalar>(embedding->second.tensor, head->second.tensor))
      fail(ErrorKind::bad_file, "lm_head.weight differs from the embedding: the model's head is tied to it");
    places_.erase(head);
  }

  // Throws Error(bad_file) unless these are the model's parameters, each of its shape, with values that the model can
  // take; values that cannot be wrong are not looked at.
  void check(const Model<A>& model, const LoadOptions& options) const {
    for (const PlacedParameter& p : model.engine().placed()) {
      const auto found = places_.find(p.name);
      if (found == places_.end()) fail(ErrorKind::bad_file, "the parameter ", p.name, " is missing");
      Model<A>::check_shape(p, found->second.shape);
    }
    if (places_.size() != model.engine().placed().size())
      for (const auto& entry : places_)
        if (std::none_of(model.engine().placed().begin(), model.engine().placed().end(),
                         [&](const PlacedParameter& p) { return p.name == entry.first; }))
          fail(ErrorKind::bad_file, "the model has no parameter ", entry.first);
    Nonfinite nonfinite;
    for (const PlacedParameter& p : model.engine().placed()) {
      const io::TensorView& tensor = places_.at(p.name).tensor;
      tensor.template read<Scalar>(0, 0, nullptr);  // refuses dtypes of which no numbers are made
      if (p.parameter.trained && !options.refuse_nonfinite && tensor.template always_converts_to<Scalar>()) continue;
      for_each_piece<Scalar>(tensor, elements_of(tensor), [&](std::span<const Scalar> values) {
        Model<A>::check_frozen(p, values);
        if (options.refuse_nonfinite) add_nonfinite(nonfinite, p.name, values);
        return true;
      });
    }
    options.check(nonfinite);
  }

  // Replaces the model's parameters by those that were checked, and returns how many of their numbers are not finite.
  // Throws Error(bad_file) where a file was changed in between, or cannot be read any more: only then some of the
  // parameters are replaced.
  Nonfinite load(Model<A>& model) {
    nonfinite_ = {};
    model.replace_parameters(*this);
    return nonfinite_;
  }

  // For engines (engine/arena.hpp).
  void read(const PlacedParameter& p, std::size_t first, std::size_t rows, Scalar* to) {
    const io::TensorView& tensor = places_.at(p.name).tensor;
    const auto columns = static_cast<std::size_t>(p.parameter.columns()),
               stride = static_cast<std::size_t>(padded(p.parameter.columns()));
    const std::size_t there = elements_of(tensor) / columns;
    rows = (std::min)(rows, there - (std::min)(there, first));
    const std::size_t at_once = columns == stride ? rows : (std::max)(std::size_t{1}, elements_at_once / columns);
    for (std::size_t row = 0; row < rows; row += at_once) {
      const std::size_t now = (std::min)(at_once, rows - row);
      Scalar* const out = to + row * stride;
      if (columns == stride) {
        tensor.read((first + row) * columns, now * columns, out);
        add_nonfinite(nonfinite_, p.name, std::span<const Scalar>(out, now * columns));
        continue;
      }
      piece_.resize(now * columns);
      tensor.read((first + row) * columns, piece_.size(), piece_.data());
      add_nonfinite(nonfinite_, p.name, std::span<const Scalar>(piece_));
      for (std::size_t i = 0; i < now; ++i) std::copy_n(piece_.data() + i * columns, columns, out + i * stride);
    }
  }

 private:
  struct Place {
    io::TensorView tensor;
    std::vector<std::int64_t> shape;  // the parameter's
  };

  // The first is the first by name, as in a dictionary.
  static void add_nonfinite(Nonfinite& found, const std::string& name, std::span<const Scalar> values) {
    const std::size_t count = count_nonfinite(values);
    if (count == 0) return;
    if (!found || name < found.first) found.first = name;
    found.count += count;
  }

  std::map<std::string, Place> places_;
  std::vector<Scalar> piece_;
  Nonfinite nonfinite_;
};

}  // namespace mamba::detail
