// Trains a classifier of the last token on a task whose samples are functions of (seed, index).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/random.hpp>
#include <mamba/train/optimizer.hpp>
#include <mamba/train/schedule.hpp>

namespace mamba {

struct TrainingOptions {
  int batch_size = 2048;
  Schedule schedule{};
  bool schedule_in_steps = false;  // the schedule's unit: steps, or epochs
  double weight_decay = 1e-2;
  double clip = 1;         // the largest gradient norm
  std::uint64_t seed = 0;  // of the shuffling
};

// Task: `length`, train_samples(), train_sample(index, ids) -> label. Every epoch shows all training samples once, in an
// order that is a function of (seed, epoch); its last batch may be smaller. A run is a function of its options: it may be
// stopped after any step and continued from a checkpoint to the same bytes.
template <class ModelType, class Task>
class Trainer {
 public:
  using Scalar = typename ModelType::Scalar;

  // Holds references to model and task. Throws Error on options out of range.
  Trainer(ModelType& model, const Task& task, const TrainingOptions& options)
      : model_(model), task_(task), options_(checked(options)), optimizer_(model, {.lr = options.schedule.at(0), .weight_decay = options.weight_decay}) {
    const auto batch = static_cast<std::size_t>(std::min<std::int64_t>(options.batch_size, task.train_samples()));
    ids_.resize(batch * Task::length);
    labels_.resize(batch);
  }

  const TrainingOptions& options() const { return options_; }
  ModelType& model() { return model_; }
  AdamW<ModelType>& optimizer() { return optimizer_; }
  const AdamW<ModelType>& optimizer() const { return optimizer_; }

  long steps() const { return optimizer_.steps(); }
  long steps_per_epoch() const { return static_cast<long>((task_.train_samples() + options_.batch_size - 1) / options_.batch_size); }
  long total_steps() const { return options_.schedule_in_steps ? options_.schedule.total : options_.schedule.total * steps_per_epoch(); }
  bool finished() const { return steps() >= total_steps(); }
  double epochs() const { return static_cast<double>(steps()) / static_cast<double>(steps_per_epoch()); }
  std::int64_t sequences() const {
    return steps() / steps_per_epoch() * task_.train_samples() + steps() % steps_per_epoch() * static_cast<std::int64_t>(options_.batch_size);
  }
  // The rate of the next step.
  double lr() const { return options_.schedule.at(options_.schedule_in_steps ? steps() : steps() / steps_per_epoch()); }

  // One step: draws the batch, computes loss and gradients, clips, updates; returns the batch's loss. A loss or gradient
  // that is not finite throws Error(diverged), names the step and the first such parameter, and changes no parameter.
  double step() {
    const long epoch = steps() / steps_per_epoch();
    const std::int64_t first = steps() % steps_per_epoch() * static_cast<std::int64_t>(options_.batch_size);
    const auto count = static_cast<std::size_t>(std::min<std::int64_t>(options_.batch_size, task_.train_samples() - first));
    const Permutation order(static_cast<std::uint64_t>(task_.train_samples()), options_.seed, static_cast<std::uint32_t>(epoch));
    for (std::size_t i = 0; i < count; ++i)
      labels_[i] = task_.train_sample(static_cast<std::int64_t>(order(static_cast<std::uint64_t>(first) + i)), ids_.data() + i * Task::length);

    const double loss = model_.loss_and_gradients({ids_.data(), count * Task::length}, {labels_.data(), count});
    const double norm = clip_grad_norm(model_, options_.clip);
    if (!std::isfinite(loss) || !std::isfinite(norm)) diverged(loss, norm);
    optimizer_.set_lr(lr());
    optimizer_.step();
    loss_sum_ += loss * static_cast<double>(count);
    loss_count_ += static_cast<std::int64_t>(count);
    return loss;
  }

  // The mean loss over the samples since it was last asked for; NaN when there were none.
  double take_mean_loss() {
    const double mean = loss_sum_ / static_cast<double>(loss_count_);
    loss_sum_ = 0, loss_count_ = 0;
    return mean;
  }

  // The part of a checkpoint that is not tensors.
  double loss_sum() const { return loss_sum_; }
  std::int64_t loss_count() const { return loss_count_; }
  void restore_loss(double sum, std::int64_t count) { loss_sum_ = sum, loss_count_ = count; }

 private:
  static const TrainingOptions& checked(const TrainingOptions& o) {
    o.schedule.check();
    require(o.batch_size >= 1, "the batch size must be positive; given ", o.batch_size);
    require(std::isfinite(o.clip) && o.clip > 0, "the largest gradient norm must be positive; given ", o.clip);
    return o;
  }

  [[noreturn]] void diverged(double loss, double norm) const {
    std::string where;
    for (const auto& [name, tensor] : model_.gradient_dict())
      if (where.empty() && std::any_of(tensor.values.begin(), tensor.values.end(), [](Scalar x) { return !std::isfinite(x); })) where = name;
    fail(ErrorKind::diverged, "step ", steps() + 1, " diverged: loss ", loss, ", gradient norm ", norm,
         where.empty() ? std::string() : "; the first parameter whose gradient is not finite is " + where);
  }

  ModelType& model_;
  const Task& task_;
  TrainingOptions options_;
  AdamW<ModelType> optimizer_;
  std::vector<std::int32_t> ids_, labels_;
  double loss_sum_ = 0;
  std::int64_t loss_count_ = 0;
};

}  // namespace mamba
