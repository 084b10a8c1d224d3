// Trains a classifier of the last token on a task whose samples are functions of (seed, index).
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/core/random.hpp>
#include <mamba/math/planned_step.hpp>
#include <mamba/parallel/group.hpp>
#include <mamba/train/data_parallel.hpp>
#include <mamba/train/optimizer.hpp>
#include <mamba/train/schedule.hpp>
#include <mamba/train/task.hpp>

namespace mamba {

// When a schedule that counts epochs changes the rate; one that counts steps changes it with every one of them.
enum class RateChanges { each_epoch, each_step };

struct TrainingOptions {
  int batch_size = 2048;
  Schedule schedule{};
  bool schedule_in_steps = false;  // the schedule's unit: steps, or epochs
  RateChanges rate_changes = RateChanges::each_epoch;
  double weight_decay = 1e-2;
  double clip = 1;         // the largest gradient norm
  std::uint64_t seed = 0;  // of the shuffling
  // How many parts a batch is cut into, whose gradients are computed one by one and added up in a fixed order: what
  // processes that train together have to share out. On the CPU alone.
  int shards = 1;

  // Throws Error on what is out of range.
  void check() const {
    schedule.check();
    require(batch_size >= 1, "the batch size must be positive; given ", batch_size);
    require(is_finite(clip) && clip > 0, "the largest gradient norm must be positive; given ", clip);
    require(is_finite(weight_decay) && weight_decay >= 0, "the weight decay must be a number from 0 on; given ",
            weight_decay);
    check_shards(shards);
  }
};

// The processes of a group, each with a Trainer of its own over a model of its own, train one model together: with the
// same options, the same initial parameters, and the same calls of their trainers and of save_checkpoint(). They share
// out the shards of each batch. Any number of them that divides the shards ends with the same bytes, and an error that
// one of them meets is thrown by all.
//
// Task: as task.hpp lists it. Every epoch shows all training samples once, in an order that is a function of (seed,
// epoch); its last batch may be smaller. A run is a function of its options: it may be stopped after any step and
// continued from a checkpoint to the same bytes.
template <class ModelType, class Task>
class Trainer {
  static_assert(check_task<Task>());

 public:
  using Scalar = typename ModelType::Scalar;

  // Holds references to model, task and group. Throws Error on options out of range, a task without samples, sequences
  // longer than the model reads, processes that do not divide the shards, or shards of a model on a GPU.
  Trainer(ModelType& model, const Task& task, const TrainingOptions& options)
      : Trainer(model, task, options, alone()) {}
  Trainer(ModelType& model, const Task& task, const TrainingOptions& options, Group& group)
      : model_(model),
        task_(task),
        options_(checked(options, task)),
        optimizer_(model, {.lr = options.schedule.at(0), .weight_decay = options.weight_decay}),
        parallel_(model, group, options.shards) {
    const auto batch = static_cast<std::size_t>(position_of(0).count);
    ids_.reserve(batch * length()), labels_.reserve(batch);
  }

  const TrainingOptions& options() const { return options_; }
  const Task& task() const { return task_; }
  ModelType& model() { return model_; }
  const ModelType& model() const { return model_; }
  AdamW<ModelType>& optimizer() { return optimizer_; }
  const AdamW<ModelType>& optimizer() const { return optimizer_; }
  DataParallel<ModelType>& parallel() { return parallel_; }

  long steps() const { return optimizer_.steps(); }
  long steps_per_epoch() const {
    return static_cast<long>((task_.train_samples() + options_.batch_size - 1) / options_.batch_size);
  }
  long total_steps() const {
    return options_.schedule_in_steps ? options_.schedule.total : options_.schedule.total * steps_per_epoch();
  }
  bool finished() const { return steps() >= total_steps(); }
  double epochs() const { return static_cast<double>(steps()) / static_cast<double>(steps_per_epoch()); }
  std::int64_t sequences() const {
    return steps() / steps_per_epoch() * task_.train_samples() +
           steps() % steps_per_epoch() * static_cast<std::int64_t>(options_.batch_size);
  }
  // The rate of the next step.
  double lr() const { return position_of(steps()).lr; }

  // The loss of the last step done, and its rate.
  double last_loss() const { return last_loss_; }
  double last_lr() const { return position_of((std::max)(steps() - 1, 0L)).lr; }

  // One step: draws the batch, computes loss and gradients, clips, updates; returns the batch's loss. A loss or
  // gradient that is not finite throws Error(diverged), names the step and the first such parameter, and changes no
  // parameter. Behind the run's last step no next one looks at what it has left: there Error(diverged) is thrown, too,
  // where a parameter, or a logit of the last batch, is not finite.
  double step() {
    advance(1);
    return last_loss_;
  }

  // `count` steps, or those that are left of the run: the same to the last bit as so many calls of step(), which goes
  // on at the final rate. A GPU that draws the task's samples itself does not wait for the host in between.
  void run(long count) {
    if (!finished()) advance((std::min)(count, total_steps() - steps()));
  }

  // Makes sure that the run can go on: throws Error(diverged) where a parameter, or the loss or a gradient of the next
  // step, is not finite. Sets the model's gradients; nothing else changes.
  void check_next_step() {
    together(parallel_.group(), [&] { check_finite(model_, optimizer_); });
    clipped_gradients(position_of(steps()));
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
  void restore_loss(double sum, std::int64_t count, double last) {
    loss_sum_ = sum, loss_count_ = count, last_loss_ = last;
  }

 private:
  static const TrainingOptions& checked(const TrainingOptions& o, const Task& task) {
    constexpr int longest = network::longest_sequence<typename ModelType::Architecture>();
    const int length = task.length;
    o.check();
    require(length >= 1, "the task's sequences must have a token at least; their length is ", length);
    require(task.train_samples() >= 1, "the task must have a training sample at least; it has ", task.train_samples());
    const std::int64_t steps_per_epoch = (task.train_samples() - 1) / o.batch_size + 1;
    constexpr std::int64_t most_steps = std::int64_t{1} << 53, most_epochs = 0xFFFFFFFF;
    require(
        o.schedule.total <= (o.schedule_in_steps ? most_steps : (std::min)(most_steps / steps_per_epoch, most_epochs)),
        "a run of ", o.schedule.total, o.schedule_in_steps ? " steps" : " epochs", " is longer than what is counted");
    require((std::min<std::int64_t>)(o.batch_size, task.train_samples()) <= 0x7FFFFFFF / length, "a batch of ",
            o.batch_size, " sequences of ", length, " tokens is too large for one step");
    require(longest == 0 || length <= longest, "the task's sequences of ", length,
            " tokens are longer than the model's max_seq_len ", longest);
    return o;
  }

  using DeviceTraining = typename Engine<typename ModelType::Architecture>::template Training<Task>;
  static constexpr bool on_device = !std::is_same_v<DeviceTraining, NoTraining>;

  void advance(long count) {
    if constexpr (on_device) {
      while (count > 0) count -= run_on_device(count);
    } else {
      for (; count > 0; --count) step_on_host();
    }
    if (steps() == total_steps()) together(parallel_.group(), [&] { check_end(); });
  }

  std::size_t length() const { return static_cast<std::size_t>(task_.length); }

  // Where step number `step`, counted from 0, is in the run.
  struct Position {
    std::uint32_t epoch;
    std::int64_t first, count;  // samples of the epoch's order
    double lr;
  };
  Position position_of(long step) const {
    const long epoch = step / steps_per_epoch();
    const std::int64_t first = step % steps_per_epoch() * static_cast<std::int64_t>(options_.batch_size);
    return {static_cast<std::uint32_t>(epoch), first,
            (std::min<std::int64_t>)(options_.batch_size, task_.train_samples() - first), rate_of(step, epoch)};
  }
  double rate_of(long step, long epoch) const {
    if (options_.schedule_in_steps) return options_.schedule.at(step);
    if (options_.rate_changes == RateChanges::each_epoch) return options_.schedule.at(epoch);
    return options_.schedule.at(static_cast<double>(step) / static_cast<double>(steps_per_epoch()));
  }

  // Allocates nothing where a step has been. The batch is the last step's, of which ids_ have what was drawn last: all
  // of it, but where a device has drawn for itself, or there are shards.
  void check_end() {
    const auto in_use = model_.use();
    const auto& engine = std::as_const(model_).engine();
    std::atomic<std::size_t> bad{count_nonfinite(std::span<const Scalar>(engine.parameters(), engine.size()))};
    const Position position = position_of(steps() - 1);
    for (int shard = 0; shard < options_.shards; ++shard) {
      if (on_device || parallel_.cuts()) draw_shard(position, shard);
      if (labels_.empty()) continue;
      model_.engine().logits(Batch{ids_, static_cast<int>(labels_.size()), static_cast<int>(length()), {}},
                             Readout::last, [&](int, auto logits) {
                               for (int i = 0; i < logits.rows; ++i)
                                 bad +=
                                     count_nonfinite(std::span<const Scalar>(logits[i], ModelType::config.vocab_size));
                             });
    }
    if (bad > 0)
      fail(ErrorKind::diverged, "after step ", steps(), " the model has diverged: ", bad.load(),
           " of its parameters and logits are not finite");
  }

  // A shard of the step's batch, in ids_ and labels_. There is none where a batch has fewer sequences than shards.
  void draw_shard(const Position& position, int shard) {
    const std::int64_t first = first_of_shard(position.count, options_.shards, shard);
    const auto count = static_cast<std::size_t>(first_of_shard(position.count, options_.shards, shard + 1) - first);
    ids_.resize(count * length()), labels_.resize(count);
    const Permutation order(static_cast<std::uint64_t>(task_.train_samples()), options_.seed, position.epoch);
    for (std::size_t i = 0; i < count; ++i)
      labels_[i] =
          task_.train_sample(static_cast<std::int64_t>(order(static_cast<std::uint64_t>(position.first + first) + i)),
                             ids_.data() + i * length());
  }

  // The gradients of a step's batch, clipped; returns its loss. Throws Error(diverged).
  double clipped_gradients(const Position& position) {
    const auto [loss, norm] =
        parallel_.clipped_gradients(options_.clip, [&](int shard) { return gradients_of_shard(position, shard); });
    if (is_finite(loss) && is_finite(norm)) return loss;
    parallel_.gather_gradients();
    diverged(loss, norm);
  }
  double gradients_of_shard(const Position& position, int shard) {
    draw_shard(position, shard);
    if (!labels_.empty())
      return model_.weighted_loss_and_gradients(ids_, labels_, 1.0 / static_cast<double>(position.count));
    const auto in_use = model_.use();
    std::fill_n(model_.engine().gradients(), model_.engine().size(), Scalar(0));
    return 0;
  }

  void step_on_host() {
    const Position position = position_of(steps());
    last_loss_ = clipped_gradients(position);
    optimizer_.set_lr(position.lr);
    parallel_.update(optimizer_);
    loss_sum_ += last_loss_ * static_cast<double>(position.count);
    loss_count_ += position.count;
  }

  // Up to `count` steps; returns how many.
  long run_on_device(long count) {
    if (!device_)
      device_.emplace(model_.engine(), task_, static_cast<int>(position_of(0).count), options_.seed, options_.clip);
    count = (std::min)(count, device_->most_steps());
    plan_.clear();
    for (long i = 0; i < count; ++i) {
      const Position position = position_of(steps() + i);
      plan_.push_back({optimizer_.update_of(steps() + i + 1, position.lr), position.first, position.epoch,
                       static_cast<int>(position.count)});
    }
    const auto in_use = model_.use();
    const auto report = device_->run(plan_, optimizer_.mean(), optimizer_.square(), loss_sum_);
    if (report.done > 0)
      optimizer_.continue_from(steps() + static_cast<long>(report.done),
                               position_of(steps() + static_cast<long>(report.done) - 1).lr);
    last_loss_ = report.loss;
    loss_sum_ = report.loss_sum;
    loss_count_ += report.samples;
    if (report.stopped) diverged(report.loss, report.norm);
    return count;
  }

  [[noreturn]] void diverged(double loss, double norm) const {
    const std::string where = nonfinite_in(model_.gradient_dict()).first;
    fail(ErrorKind::diverged, "step ", steps() + 1, " diverged: loss ", loss, ", gradient norm ", norm,
         where.empty() ? std::string() : "; the first parameter whose gradient is not finite is " + where);
  }

  static Group& alone() {
    static Alone one;  // it has nothing that could change
    return one;
  }

  ModelType& model_;
  const Task& task_;
  TrainingOptions options_;
  AdamW<ModelType> optimizer_;
  DataParallel<ModelType> parallel_;
  std::vector<std::int32_t> ids_, labels_;
  std::optional<DeviceTraining> device_;
  std::vector<math::PlannedStep> plan_;
  double last_loss_ = 0, loss_sum_ = 0;
  std::int64_t loss_count_ = 0;
};

}  // namespace mamba
