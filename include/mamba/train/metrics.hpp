// How well a classifier of the last token does.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/core/host_tensor.hpp>
#include <mamba/task/composite_function.hpp>
#include <mamba/task/inverse_sequence.hpp>

namespace mamba {

// The column of the largest logit of every row; the first of equals. Throws Error(diverged) on a logit that is not
// finite: such a model answers nothing.
template <class Scalar>
std::vector<std::int32_t> predictions(const Matrix<Scalar>& logits) {
  require(logits.rows() == 0 || logits.cols() > 0, "logits without columns name no class");
  std::vector<std::int32_t> best(static_cast<std::size_t>(logits.rows()));
  for (std::ptrdiff_t i = 0; i < logits.rows(); ++i) {
    const auto row = logits.row(i);
    if (const std::size_t count = count_nonfinite(row); count > 0)
      fail(ErrorKind::diverged, "the model has diverged: ", count, " of the ", row.size(), " logits of sequence ", i,
           " are not finite");
    best[static_cast<std::size_t>(i)] =
        static_cast<std::int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
  }
  return best;
}

// The share of equal elements. Throws Error on lists of different lengths, or on none.
inline double accuracy(std::span<const std::int32_t> predicted, std::span<const std::int32_t> expected) {
  require(predicted.size() == expected.size(), "as many answers as labels are needed; given ", predicted.size(),
          " and ", expected.size());
  require(!expected.empty(), "of no answers there is no accuracy");
  std::size_t hits = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) hits += predicted[i] == expected[i];
  return static_cast<double>(hits) / static_cast<double>(expected.size());
}

// Accuracies on the test set of one pair: by the task's label, by the composition, by the mirrored pair's label.
struct PairAccuracy {
  double label = 0, composite = 0, symmetric = 0;
};

// Of answers to a set, one for each of its sequences.
inline PairAccuracy pair_accuracy(std::span<const std::int32_t> predicted, const task::CompositeTestSet& set) {
  using Task = task::CompositeFunction;
  std::vector<std::int32_t> composite, symmetric;
  for (const std::int32_t key : set.keys) {
    composite.push_back(Task::composite_label(key, set.pair, set.rule));
    symmetric.push_back(Task::symmetric_label(key, set.pair, set.rule));
  }
  return {accuracy(predicted, set.labels), accuracy(predicted, composite), accuracy(predicted, symmetric)};
}

template <class ModelType>
PairAccuracy evaluate(ModelType& model, const task::CompositeTestSet& set) {
  return pair_accuracy(predictions(model(set.ids, set.size())), set);
}

// The share of a set that the model answers as labelled.
template <class ModelType>
double evaluate(ModelType& model, const task::LabelledSet& set) {
  return accuracy(predictions(model(set.ids, set.size())), set.labels);
}

}  // namespace mamba
