// The tasks that the programs train on: what of a task is an option, what is measured, which model it takes.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mamba/composite.hpp>
#include <mamba/core/text.hpp>

namespace runs {

using mamba::io::Json;

// What is measured at every evaluation, in the order of its columns in training_log.csv.
template <std::size_t Count>
using Accuracies = std::array<double, Count>;

// "0.250"
inline std::string share_text(const Json& share) { return mamba::fixed_text(share.number(), 3); }

// "43"
inline std::string name_of(mamba::task::AnchorPair pair) {
  return std::to_string(pair.first) + std::to_string(pair.second);
}

// What both versions of the composite function task share.
template <class Task_, class TaskOptions_>
struct Anchored {
  using Task = Task_;
  using TaskOptions = TaskOptions_;

  // f(option, what it is, field): all that a user may set.
  template <class F>
  static void for_each_field(TaskOptions& o, F&& f) {
    f("--train-samples", "size of the training set", o.train_samples);
    f("--eval-samples", "size of each pair's test set", o.eval_samples);
    f("--filler", "tokens of the filler, FIRST..LAST", o.filler);
    f("--keys", "tokens of the keys, FIRST..LAST", o.keys);
    f("--labels", "the functions' sum modulo 100, or the sum itself, which needs a larger vocabulary", o.labels);
  }
  static Task task(TaskOptions options, int, std::uint64_t seed) {
    options.seed = seed;
    return Task(options);
  }
};

// The standard version.
struct Composite : Anchored<mamba::task::CompositeFunction, mamba::task::CompositeFunctionOptions> {
  static constexpr mamba::Config config{};
  static constexpr const char *name = "composite", *title = "Composite function task";
  static constexpr const char* accuracy = "accuracy on (4,3)";
  static constexpr std::array columns{"composite_acc", "symmetric_acc"};
  static constexpr std::array lines{"composite (key - 10)", "symmetric (key - 6)"};
  static constexpr std::array brief{"comp", "sym"};
  static constexpr std::size_t tracked = 0;  // the column whose best model is kept ...
  static constexpr const char* tracked_name = "composite";

  template <class Model>
  class Evaluation {
   public:
    explicit Evaluation(const Task& task) : held_out_(task.test_set(Task::number_of(Task::held_out))) {}
    Accuracies<2> operator()(Model& model) const {
      const auto measured = mamba::evaluate(model, held_out_);
      return {measured.composite, measured.symmetric};
    }

   private:
    mamba::task::CompositeTestSet held_out_;
  };

  static const char* preferred(double composite, double symmetric) {
    if (std::max(composite, symmetric) < 0.1) return "neither";
    return composite >= symmetric ? "composite" : "symmetric";
  }

  // The accuracies on all 16 pairs.
  template <class Model>
  static Json::Members final_metrics(Model& model, const Task& task) {
    std::vector<mamba::PairAccuracy> all;
    Json::Members pairs;
    for (int p = 0; p < Task::pair_count; ++p) {
      all.push_back(mamba::evaluate(model, task.test_set(p)));
      pairs.emplace_back(name_of(Task::pair(p)), all.back().label);
    }
    const auto& held_out = all[Task::number_of(Task::held_out)];
    return {{"composite_acc", held_out.composite},
            {"symmetric_acc", held_out.symmetric},
            {"prefers", preferred(held_out.composite, held_out.symmetric)},
            {"pair_acc", std::move(pairs)}};
  }
  static void print(const Json& metrics) {
    const Json& pairs = metrics.at("pair_acc");
    std::printf(
        "Accuracy on the test cases of each pair (first anchor down, second across):\n\n         1      2      3      "
        "4\n");
    for (int first = 1; first <= 4; ++first) {
      std::printf("  %d ", first);
      for (int second = 1; second <= 4; ++second)
        std::printf("  %s", share_text(pairs.at(name_of({first, second}))).c_str());
      std::printf("\n");
    }
    std::printf("\n(4,3), which training never shows: composite (key - 10) %s, symmetric (key - 6) %s\n",
                share_text(metrics.at("composite_acc")).c_str(), share_text(metrics.at("symmetric_acc")).c_str());
    const std::string solution = metrics.at("prefers").string();
    if (solution == "neither") std::printf("The model prefers neither solution: both accuracies are below 0.1.\n");
    else std::printf("The model prefers the %s solution.\n", solution.c_str());
  }
};

// Its full symmetry version: does a model that knows (3,4) know (4,3)?
struct FullSymmetry : Anchored<mamba::task::FullSymmetry, mamba::task::FullSymmetryOptions> {
  static constexpr mamba::Config config{.d_model = 128};
  static constexpr const char *name = "full symmetry", *title = "Composite function task, full symmetry";
  static constexpr const char* accuracy = "accuracy";
  static constexpr std::array columns{"pair34_acc", "pair43_acc"};
  static constexpr std::array lines{"pair (3,4)", "pair (4,3), never shown"};
  static constexpr std::array brief{"34", "43"};
  static constexpr std::size_t tracked = 1;
  static constexpr const char* tracked_name = "pair43";

  template <class Model>
  class Evaluation {
   public:
    explicit Evaluation(const Task& task)
        : shown_(task.test_set(Task::number_of({3, 4}))), held_out_(task.test_set(Task::number_of({4, 3}))) {}
    Accuracies<2> operator()(Model& model) const {
      return {mamba::evaluate(model, shown_), mamba::evaluate(model, held_out_)};
    }

   private:
    mamba::task::LabelledSet shown_, held_out_;
  };

  template <class Model>
  static Json::Members final_metrics(Model& model, const Task& task) {
    Json::Members pairs;
    for (int p = 0; p < Task::pair_count; ++p)
      pairs.emplace_back(name_of(Task::pair(p)), mamba::evaluate(model, task.test_set(p)));
    const Json of_34 = pairs[Task::number_of({3, 4})].second, of_43 = pairs[Task::number_of(Task::held_out)].second;
    return {{"pair34_acc", of_34}, {"pair43_acc", of_43}, {"pair_acc", std::move(pairs)}};
  }
  static void print(const Json& metrics) {
    std::printf("Accuracy on the test cases of (3,4): %s; of its mirror (4,3), which training never shows: %s\n",
                share_text(metrics.at("pair34_acc")).c_str(), share_text(metrics.at("pair43_acc")).c_str());
  }
};

// The inverse sequence matching task.
struct Inverse {
  using Task = mamba::task::InverseSequence;
  using TaskOptions = mamba::task::InverseSequenceOptions;
  static constexpr mamba::Config config{.vocab_size = Task::tokens, .d_model = 128};
  static constexpr const char *name = "inverse sequences", *title = "Inverse sequence matching task";
  static constexpr const char* accuracy = "accuracy";
  static constexpr std::array columns{"train_acc", "test_acc", "ood_acc"};
  static constexpr std::array lines{"training", "test", "out of distribution"};
  static constexpr std::array brief{"train", "test", "OOD"};
  static constexpr std::size_t tracked = 1;
  static constexpr const char* tracked_name = "test";

  template <class F>
  static void for_each_field(TaskOptions& o, F&& f) {
    f("--train-samples", "size of the training set", o.train_samples);
    f("--eval-samples", "size of the test set, and how much of the training set is evaluated", o.test_samples);
    f("--ood-samples", "size of the set out of distribution", o.out_of_distribution_samples);
    f("--numbers", "tokens of training and test, FIRST..LAST", o.numbers);
    f("--ood-numbers", "tokens out of distribution, FIRST..LAST", o.numbers_out_of_distribution);
  }
  static Task task(TaskOptions options, int layers, std::uint64_t seed) {
    options.seed = seed, options.n_layers = layers;
    return Task(options);
  }

  template <class Model>
  class Evaluation {
   public:
    explicit Evaluation(const Task& task)
        : train_(task.test_set(Task::Set::train)),
          test_(task.test_set(Task::Set::test)),
          other_(task.test_set(Task::Set::out_of_distribution)) {}
    Accuracies<3> operator()(Model& model) const {
      return {mamba::evaluate(model, train_), mamba::evaluate(model, test_), mamba::evaluate(model, other_)};
    }

   private:
    mamba::task::LabelledSet train_, test_, other_;
  };

  template <class Model>
  static Json::Members final_metrics(Model& model, const Task& task) {
    const auto measured = Evaluation<Model>(task)(model);
    Json::Members metrics;
    for (std::size_t c = 0; c < columns.size(); ++c) metrics.emplace_back(columns[c], measured[c]);
    return metrics;
  }
  static void print(const Json& metrics) {
    std::printf("Accuracy on training %s, test %s, out of distribution %s; guessing gives 0.2.\n",
                share_text(metrics.at("train_acc")).c_str(), share_text(metrics.at("test_acc")).c_str(),
                share_text(metrics.at("ood_acc")).c_str());
  }
};

}  // namespace runs
