// Gradient clipping and AdamW over a model's trained parameters (specification, section 9).
#pragma once

#include <cmath>
#include <cstddef>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/math/adamw.hpp>
#include <mamba/model/model.hpp>

namespace mamba {

// Scales all gradients by min(1, max_norm / (norm + 1e-6)) and returns the norm before. A norm that is not finite is
// returned with the gradients as they were. Throws Error unless max_norm > 0.
template <class A>
double clip_grad_norm(Model<A>& model, double max_norm) {
  require(max_norm > 0, "max_norm must be positive; given ", max_norm);
  const auto in_use = model.use();
  const double norm = model.engine().gradient_norm(), factor = max_norm / (norm + 1e-6);
  if (is_finite(norm) && factor < 1) model.engine().scale_gradients(factor);
  return norm;
}

struct AdamWOptions {
  double lr = 1e-3;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 1e-2;

  // Throws Error(invalid_argument) on a rate, decay or epsilon that is negative or not finite, or a beta outside [0,
  // 1).
  void check() const {
    require(is_finite(lr) && lr >= 0, "the learning rate must be a number from 0 on; given ", lr);
    require(beta1 >= 0 && beta1 < 1 && beta2 >= 0 && beta2 < 1, "the betas must be in [0, 1); given ", beta1, " and ",
            beta2);
    require(is_finite(eps) && eps >= 0, "eps must be a number from 0 on; given ", eps);
    require(is_finite(weight_decay) && weight_decay >= 0, "the weight decay must be a number from 0 on; given ",
            weight_decay);
  }
};

// Decoupled weight decay on every trained parameter, as torch.optim.AdamW with one group. Frozen parameters have no
// state and do not decay. Holds a reference: the model must outlive it.
template <class ModelType>
class AdamW {
  static_assert(ModelType::Architecture::trains,
                "mamba: Int8Weights are for inference; an optimiser trains float or BFloat16");

 public:
  using Scalar = typename ModelType::Scalar;
  using Arenas = Engine<typename ModelType::Architecture>;

  // Throws Error on a rate, decay or epsilon that is negative or not finite, or a beta outside [0, 1).
  explicit AdamW(ModelType& model, AdamWOptions options = {})
      : model_(&model),
        options_(checked(options)),
        mean_(model.engine().make_arena()),
        square_(model.engine().make_arena()) {}

  // Updates the parameters by the model's gradients.
  void step() {
    const auto in_use = model_->use();
    ++steps_;
    model_->engine().adamw(mean_, square_, update_of(steps_, options_.lr));
  }

  // The same for pieces [first, last) of what is trained (engine/engine.hpp).
  void step(int first, int last) {
    const auto in_use = model_->use();
    ++steps_;
    model_->engine().adamw(mean_, square_, update_of(steps_, options_.lr), first, last);
  }

  // For who makes the steps elsewhere: the update of step number `step`, counted from 1, at a rate; the running means;
  // that so many steps are done, the last at this rate.
  math::AdamWStep update_of(long step, double lr) const {
    return math::AdamWStep::at<Scalar>(step, lr, options_.beta1, options_.beta2, options_.eps, options_.weight_decay);
  }
  typename Arenas::Arena& mean() { return mean_; }
  typename Arenas::Arena& square() { return square_; }
  const typename Arenas::Arena& mean() const { return mean_; }
  const typename Arenas::Arena& square() const { return square_; }
  void continue_from(long steps, double lr) {
    set_lr(lr);
    steps_ = steps;
  }

  void set_lr(double lr) {
    AdamWOptions next = options_;
    next.lr = lr;
    options_ = checked(next);
  }
  const AdamWOptions& options() const { return options_; }
  double lr() const { return options_.lr; }
  long steps() const { return steps_; }

  // The running means of the gradients and of their squares, by parameter name.
  StateDict<Scalar> mean_dict() const { return model_->trained_dict(mean_.template as<Scalar>()); }
  StateDict<Scalar> square_dict() const { return model_->trained_dict(square_.template as<Scalar>()); }

  // Throws Error(bad_file) for a state that is another model's or none: numbers that are not finite, squares below
  // zero.
  void check_state(const StateDict<Scalar>& mean, const StateDict<Scalar>& square) const {
    model_->check_trained_dict(mean);
    model_->check_trained_dict(square);
    for (const auto* dict : {&mean, &square})
      if (const Nonfinite found = nonfinite_in(*dict))
        fail(ErrorKind::bad_file, found.count,
             " numbers of the optimiser's state are not finite, the first of them that of ", found.first);
    for (const auto& entry : square)
      for (const Scalar x : entry.second.values)
        if (x < 0)
          fail(ErrorKind::bad_file, "the running mean of squares of ", entry.first, " holds a negative number");
  }

  // Continues from a state as the dictionaries gave it. Throws Error, and changes nothing, as check_state() does.
  void load_state(const StateDict<Scalar>& mean, const StateDict<Scalar>& square, long steps) {
    const auto in_use = model_->use();
    require(steps >= 0, "the number of steps must not be negative; given ", steps);
    check_state(mean, square);
    model_->fill_arena(mean_.template as<Scalar>(), mean);
    model_->fill_arena(square_.template as<Scalar>(), square);
    steps_ = steps;
  }

 private:
  static const AdamWOptions& checked(const AdamWOptions& o) {
    o.check();
    return o;
  }

  ModelType* model_;
  AdamWOptions options_;
  typename Arenas::Arena mean_, square_;
  long steps_ = 0;
};

// Throws Error(diverged) where a parameter, or a mean of the optimiser, is not finite.
template <class ModelType>
void check_finite(const ModelType& model, const AdamW<ModelType>& optimizer) {
  for (const auto& dict : {model.state_dict(), optimizer.mean_dict(), optimizer.square_dict()})
    if (const Nonfinite found = nonfinite_in(dict))
      fail(ErrorKind::diverged, "after step ", optimizer.steps(), " the model has diverged: ", found.count,
           " numbers of its parameters or the optimiser's means are not finite, the first of them in ", found.first);
}

}  // namespace mamba
