// What all models share: parameters by name, initialisation, logits of every position.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <mamba/core/config.hpp>
#include <mamba/core/error.hpp>
#include <mamba/core/exclusive.hpp>
#include <mamba/core/finite.hpp>
#include <mamba/core/host_tensor.hpp>
#include <mamba/core/policies.hpp>
#include <mamba/core/views.hpp>
#include <mamba/engine/batch.hpp>
#include <mamba/engine/cpu.hpp>
#include <mamba/engine/engine.hpp>
#include <mamba/engine/packing.hpp>
#include <mamba/model/device.hpp>
#include <mamba/model/piece.hpp>
#include <mamba/network/initialisation.hpp>
#include <mamba/network/parameters.hpp>
#ifdef __CUDACC__
#include <mamba/engine/cuda_block.hpp>
#endif

namespace mamba {

// The base of MambaLMHeadModel and MambaForComposite. A model is used by one call at a time: a second one, from another
// thread or from inside the first (a visitor, a loss), throws Error; what only looks (state_dict(), save()) may come
// from inside. Different models are independent of each other. Calls allocate on first use and when a call is larger
// than all before, then no more, except for the matrices that they return.
template <class A>
class Model {
  static_assert(check_engine<Engine<A>, A>());

 public:
  using Architecture = A;
  using Scalar = typename A::Scalar;
  static constexpr Config config = A::config;

  // Draws the initial parameters: with options.gamma the origin's rule, else mamba_ssm's (specification, section 4).
  // With options.draw off those that are trained are zero. Throws Error on options out of range.
  explicit Model(const ModelOptions& options) : engine_(checked(options)), options_(options) {
    // A model that is about to be loaded has no use for zeros on the host, where a GPU has the parameters.
    if (!options.draw && std::all_of(engine_.placed().begin(), engine_.placed().end(), is_trained)) return;
    initialise(engine_.mutable_parameters(), engine_.placed(), options);
    engine_.parameters_changed();
  }

  int n_layers() const { return options_.n_layers; }
  std::optional<double> gamma() const { return options_.gamma; }
  const ModelOptions& options() const { return options_; }

  // The bytes that the model holds now, where it runs: parameters, gradients, activations. On the CPU what is large and
  // has not been written yet counts, though it takes no memory (core/memory.hpp).
  std::size_t memory_bytes() const { return engine_.memory_bytes(); }

  // The logits of all positions, (batch * length, padded vocabulary); ids (batch, length). Positions from a sequence's
  // length on are zero. Throws Error on ids that are not in the vocabulary or do not divide into the batch.
  Matrix<Scalar> logits(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths = {}) {
    const auto in_use = use();
    const Batch input = check(ids, batch, lengths);
    Matrix<Scalar> result(static_cast<std::ptrdiff_t>(input.batch) * input.length, config.padded_vocab_size());
    std::vector<int> rows;  // of the result, where not all of them are read out
    if (!lengths.empty()) batch_rows(rows, input, 0, input.batch);
    engine_.logits(input, Readout::all, [&](int first, auto logits) {
      for (int i = 0; i < logits.rows; ++i)
        std::copy_n(logits[i], result.cols(),
                    &result(rows.empty() ? first + i : rows[static_cast<std::size_t>(first + i)], 0));
    });
    return result;
  }

  // --- one token, or a few, at a time (specification, section 6) -------------------------------------------------

  // The state of `batch` sequences that have had no token. Throws Error for batch < 1.
  State<A> initial_state(int batch) const {
    require(batch > 0, "a state is of at least one sequence; given ", batch);
    return engine_.make_state(batch);
  }

  // One more token for each sequence, tokens (batch): advances the state and returns the logits, (batch, padded
  // vocabulary), valid until the next step. Allocates nothing once the state has been stepped. Throws Error,
  // and leaves the state, when it is of another batch or model, a token is not in the vocabulary or a sequence too
  // long.
  const Matrix<Scalar>& step(std::span<const std::int32_t> tokens, State<A>& state) {
    require(tokens.size() == static_cast<std::size_t>(state.batch()), tokens.size(), " token ids do not divide into ",
            state.batch(), " sequences of one token, which a step takes");
    advance(tokens, state.batch(), {}, state, step_logits_);
    return step_logits_;
  }

  // The same with any number of tokens, ids (batch, length), from any state; returns the logits behind the last ones.
  Matrix<Scalar> prefill(std::span<const std::int32_t> ids, int batch, State<A>& state,
                         std::span<const std::int32_t> lengths = {}) {
    Matrix<Scalar> result;
    advance(ids, batch, lengths, state, result);
    return result;
  }

  // As prefill(), ids (batch, length), but what comes back is a token for each sequence, (batch), chosen from the
  // logits behind its last one (math/choice.hpp): on a GPU it is chosen there. Valid until the next call, which may
  // read them. A function of the logits, `sampling`, the sequence's number in the batch and how many tokens it has had.
  // Throws Error on what prefill() refuses and on a temperature out of range, and leaves the state; Error(diverged)
  // where logits are not finite, when the state has advanced. Allocates nothing once it has been called with such a
  // batch.
  const std::vector<std::int32_t>& next_tokens(std::span<const std::int32_t> ids, int batch, State<A>& state,
                                               const Sampling& sampling = {},
                                               std::span<const std::int32_t> lengths = {}) {
    sampling.check();
    const auto in_use = use();
    const Batch input = check(ids, batch, lengths, state);
    next_chosen_.resize(static_cast<std::size_t>(batch));  // ids may be what the last call returned
    engine_.choose(input, sampling, state, next_chosen_);
    std::swap(chosen_, next_chosen_);
    next_chosen_.resize(static_cast<std::size_t>(batch));
    for (const std::int32_t token : chosen_)
      if (token < 0) fail(ErrorKind::diverged, "the logits that a token is to be chosen by are not finite");
    return chosen_;
  }

  // --- gradients through states (specification, section 5) -------------------------------------------------------

  // The gradients of a piece of longer sequences behind which the loss lies: those of the sum of piece.of_state times
  // the state where the piece ends. ids (batch, length), from `state`, which is advanced. Throws Error on what
  // prefill() refuses, and when piece.of_state is missing, of another batch or model, or `state` itself; then nothing
  // has changed. piece.weight, of which there is no loss, means nothing.
  void gradients_through(std::span<const std::int32_t> ids, int batch, State<A>& state, const Piece<A>& piece,
                         std::span<const std::int32_t> lengths = {}) {
    require(piece.of_state, "a piece that no loss is taken of has no gradients but those through the state at its end");
    const auto in_use = use();
    const Batch input = check(ids, batch, lengths, state);
    piece_gradients(input, Readout::none, {nullptr, config.vocab_size, 0}, state, piece);
  }

  // --- looking and reaching inside (specification, section 11) ---------------------------------------------------

  // Runs the sequences with visitor(Point, layer, MatrixView<Scalar> rows, std::span<const int> where) at every point
  // of every block, and returns the last token's logits, (batch, vocab_size). where[i] is row i's sequence * length +
  // time; the visitor may change the rows. It is called on this thread.
  template <class Visitor>
  Matrix<Scalar> visit(std::span<const std::int32_t> ids, int batch, Visitor&& visitor,
                       std::span<const std::int32_t> lengths = {}) {
    const auto in_use = use();
    const Batch input = check(ids, batch, lengths);
    return last_logits(input, [&](auto&& take) { engine_.visited_logits(input, visitor, take); });
  }

  // The activations at a point of every layer, each (batch * length, width); rows from a sequence's length on are zero.
  std::vector<Matrix<Scalar>> activations(Point point, std::span<const std::int32_t> ids, int batch,
                                          std::span<const std::int32_t> lengths = {}) {
    std::vector<Matrix<Scalar>> all(static_cast<std::size_t>(n_layers()));
    visit(
        ids, batch,
        [&](Point at, int layer, MatrixView<Scalar> rows, std::span<const int> where) {
          if (at != point) return;
          auto& matrix = all[static_cast<std::size_t>(layer)];
          if (matrix.rows() == 0) matrix = Matrix<Scalar>(static_cast<std::ptrdiff_t>(ids.size()), rows.cols());
          for (std::ptrdiff_t i = 0; i < rows.rows(); ++i)
            std::copy(rows.row(i).begin(), rows.row(i).end(), &matrix(where[static_cast<std::size_t>(i)], 0));
        },
        lengths);
    return all;
  }

  // The last token's logits, (batch, vocab_size), with S[i,j] = 0 where mask (batch, length) is 1 at j, for every i > j
  // or (Reading::downstream) only those behind the sequence's last masked row, in every layer or in those listed.
  // Throws Error on a mask of another size or a layer that does not exist.
  Matrix<Scalar> blocked(std::span<const std::int32_t> ids, int batch, std::span<const std::uint8_t> mask,
                         std::span<const int> layers = {}, Reading reading = Reading::strict) {
    const auto in_use = use();
    const Batch input = check(ids, batch, {});
    const ChosenLayers chosen = check_intervention(input, mask, layers);
    return last_logits(input, [&](auto&& take) {
      if (reading == Reading::strict) engine_.template blocked_logits<Reading::strict>(input, mask, chosen, take);
      else engine_.template blocked_logits<Reading::downstream>(input, mask, chosen, take);
    });
  }

  // The same with what the blocks use of the convolution (Point::conv_output) in a run over reference_ids (batch,
  // length) where mask is 1.
  Matrix<Scalar> substituted(std::span<const std::int32_t> ids, std::span<const std::int32_t> reference_ids, int batch,
                             std::span<const std::uint8_t> mask, std::span<const int> layers = {}) {
    const auto in_use = use();
    const Batch input = check(ids, batch, {}), reference = check(reference_ids, batch, {});
    require(ids.size() == reference_ids.size(), "the reference's ", reference_ids.size(),
            " tokens are not as many as the target's ", ids.size());
    const ChosenLayers chosen = check_intervention(input, mask, layers);
    return last_logits(input, [&](auto&& take) { engine_.substituted_logits(input, reference, mask, chosen, take); });
  }

  // --- parameters --------------------------------------------------------------------------------------------------

  // Parameters by mamba_ssm's names, a tied embedding once.
  StateDict<Scalar> state_dict() const {
    const auto looking = look();
    return dict_of(engine_.parameters(), [](const PlacedParameter&) { return true; });
  }

  // The gradients of the last loss_and_gradients; frozen parameters have none.
  StateDict<Scalar> gradient_dict() const {
    const auto looking = look();
    return dict_of(engine_.gradients(), is_trained);
  }

  // Replaces all parameters. Throws Error, and changes nothing, unless names and shapes are this model's and frozen
  // tensors hold what they must.
  void load_state_dict(const StateDict<Scalar>& dict) {
    const auto in_use = use();
    check_dict(dict, [](const PlacedParameter&) { return true; });
    engine_.replace_parameters(DictRows{dict});
  }

  // The same from tensors that lie elsewhere, and without a copy of them all: source.read(parameter, first row, rows,
  // to) is asked for every row of every parameter once (engine/arena.hpp). What is wrong with them is to be found
  // before: an error from there leaves some of the parameters replaced.
  template <class Source>
  void replace_parameters(Source&& source) {
    const auto in_use = use();
    engine_.replace_parameters(source);
  }

  // Throws Error(bad_file) where the parameter is of another shape.
  static void check_shape(const PlacedParameter& p, const std::vector<std::int64_t>& shape) {
    if (shape != shape_of(p))
      fail(ErrorKind::bad_file, p.name, " has the shape ", written(shape), "; the model's is ", written(shape_of(p)));
  }
  // The same where these are some of a frozen parameter's values, and not all what they must be.
  static void check_frozen(const PlacedParameter& p, std::span<const Scalar> values) {
    if (p.parameter.trained) return;
    for (const Scalar x : values)
      if (x != static_cast<Scalar>(p.parameter.scale))
        fail(ErrorKind::bad_file, p.name, " is frozen at ", p.parameter.scale, " in this model; given ", x);
  }

  // The same for an arena of the parameters' layout (an optimiser's state): the trained parameters by name.
  StateDict<Scalar> trained_dict(const Scalar* arena) const {
    const auto looking = look();
    return dict_of(arena, is_trained);
  }
  void check_trained_dict(const StateDict<Scalar>& dict) const { check_dict(dict, is_trained); }
  void fill_arena(Scalar* arena, const StateDict<Scalar>& dict) const {
    for (const PlacedParameter& p : engine_.placed())
      if (const auto found = dict.find(p.name); found != dict.end()) {
        const std::vector<Scalar>& values = found->second.values;
        std::fill_n(arena + p.offset, p.parameter.arena_size(),
                    Scalar(0));  // what pads is zero, whatever an update has made of it
        for_each_element(p.parameter, [&](std::size_t k, std::size_t at) { arena[p.offset + at] = values[k]; });
      }
  }

  // For optimisers and the like: the arenas behind the dictionaries, and what such a call holds while it uses them.
  [[nodiscard]] Exclusive::Use use() { return {in_use_, "the model"}; }
  [[nodiscard]] Exclusive::Look look() const { return {in_use_, "the model"}; }
  Engine<A>& engine() { return engine_; }
  const Engine<A>& engine() const { return engine_; }

 protected:
  // What every call checks first.
  static Batch check(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths) {
    return checked_batch(config, network::longest_sequence<A>(), ids, batch, lengths);
  }

  // The same for tokens behind those that a state has had.
  Batch check(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths,
              const State<A>& state) const {
    require(state.n_layers() == n_layers(), "the state is of a model with ", state.n_layers(), " layers; this one has ",
            n_layers());
    require(state.batch() == batch, "the state is of ", state.batch(), " sequences; given ", batch);
    return checked_batch(config, network::longest_sequence<A>(), ids, batch, lengths, state.positions());
  }

  static double checked_weight(double weight) {
    require(is_finite(weight) && weight >= 0, "the weight of a position in the loss must be a number from 0 on; given ",
            weight);
    return weight;
  }

  // Runs a piece; the loss's weight is piece's or else its own.
  double piece_gradients(const Batch& input, Readout readout, CrossEntropy loss, State<A>& state,
                         const Piece<A>& piece) {
    if (piece.weight) loss.weight = checked_weight(*piece.weight);
    if (piece.of_state) {
      require(piece.of_state != &state, "the gradient with respect to the state cannot be the state itself");
      require(piece.of_state->n_layers() == n_layers() && piece.of_state->batch() == input.batch,
              "the gradient with respect to the state is of ", piece.of_state->n_layers(), " layers and ",
              piece.of_state->batch(), " sequences; the state has ", n_layers(), " and ", input.batch);
    }
    if (piece.accumulate) engine_.keep_gradients();
    const double sum = engine_.passed_loss_and_gradients(input, readout, loss, state, piece.of_state);
    if (piece.accumulate) engine_.add_kept_gradients();
    return sum;
  }

  // What the model holds once it has had the gradients of such a batch.
  std::size_t bytes_with_gradients(int batch, int length, Readout readout) const {
    constexpr int longest = network::longest_sequence<A>();
    require(batch >= 1 && length >= 1 && batch <= 0x7FFFFFFF / length, "a batch of ", batch, " sequences of ", length,
            " tokens is none");
    require(longest == 0 || length <= longest, "a sequence of ", length,
            " tokens is longer than the model's max_seq_len ", longest);
    return engine_.bytes_with_gradients(Batch{{}, batch, length, {}}, readout);
  }

  // (batch, vocab_size) from what run(use) hands out.
  template <class Run>
  static Matrix<Scalar> last_logits(const Batch& input, Run&& run) {
    Matrix<Scalar> result(input.batch, config.vocab_size);
    run([&](int first, auto logits) {
      for (int i = 0; i < logits.rows; ++i) std::copy_n(logits[i], config.vocab_size, &result(first + i, 0));
    });
    return result;
  }

 private:
  void advance(std::span<const std::int32_t> ids, int batch, std::span<const std::int32_t> lengths, State<A>& state,
               Matrix<Scalar>& result) {
    const auto in_use = use();
    const Batch input = check(ids, batch, lengths, state);
    if (result.rows() != batch) result = Matrix<Scalar>(batch, config.padded_vocab_size());
    engine_.logits(
        input, Readout::last,
        [&](int first, auto logits) {
          for (int i = 0; i < logits.rows; ++i) std::copy_n(logits[i], result.cols(), &result(first + i, 0));
        },
        &state);
  }

  ChosenLayers check_intervention(const Batch& input, std::span<const std::uint8_t> mask,
                                  std::span<const int> layers) const {
    require(mask.size() == input.ids.size(), "the mask has ", mask.size(), " elements for ", input.ids.size(),
            " tokens");
    for (const int l : layers) require(l >= 0 && l < n_layers(), "layer ", l, " is not in 0..", n_layers() - 1);
    return ChosenLayers(layers);
  }

  static const ModelOptions& checked(const ModelOptions& options) {
    options.check();
    return options;
  }

  // f(element in row-major order, its index among the padded rows)
  template <class F>
  static void for_each_element(const Parameter& p, F&& f) {
    const auto columns = static_cast<std::size_t>(p.columns()), stride = static_cast<std::size_t>(padded(p.columns()));
    for (std::size_t k = 0; k < p.size(); ++k) f(k, k / columns * stride + k % columns);
  }

  static bool is_trained(const PlacedParameter& p) { return p.parameter.trained; }

  template <class Wanted>
  StateDict<Scalar> dict_of(const Scalar* arena, Wanted&& wanted) const {
    StateDict<Scalar> dict;
    for (const PlacedParameter& p : engine_.placed())
      if (wanted(p)) dict.emplace(p.name, tensor_of(p.parameter, arena + p.offset));
    return dict;
  }

  template <class Wanted>
  void check_dict(const StateDict<Scalar>& dict, Wanted&& wanted) const {
    std::size_t expected = 0;
    for (const PlacedParameter& p : engine_.placed()) {
      if (!wanted(p)) continue;
      ++expected;
      const auto found = dict.find(p.name);
      if (found == dict.end()) fail(ErrorKind::bad_file, "the parameter ", p.name, " is missing");
      check_tensor(p, found->second);
    }
    if (dict.size() == expected) return;
    for (const auto& entry : dict)
      if (std::none_of(engine_.placed().begin(), engine_.placed().end(),
                       [&](const PlacedParameter& p) { return wanted(p) && p.name == entry.first; }))
        fail(ErrorKind::bad_file, "the model has no parameter ", entry.first);
  }

  static HostTensor<Scalar> tensor_of(const Parameter& p, const Scalar* values) {
    HostTensor<Scalar> tensor{{p.shape, p.shape + p.rank}, std::vector<Scalar>(p.size())};
    for_each_element(p, [&](std::size_t k, std::size_t at) { tensor.values[k] = values[at]; });
    return tensor;
  }

  static std::vector<std::int64_t> shape_of(const PlacedParameter& p) {
    return {p.parameter.shape, p.parameter.shape + p.parameter.rank};
  }
  static std::string written(const std::vector<std::int64_t>& shape) {
    std::string text = "(";
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + ")";
  }

  static void check_tensor(const PlacedParameter& p, const HostTensor<Scalar>& tensor) {
    check_shape(p, tensor.shape);
    if (tensor.values.size() != p.parameter.size())
      fail(ErrorKind::bad_file, p.name, " holds ", tensor.values.size(), " values; its shape ", written(tensor.shape),
           " has ", p.parameter.size());
    check_frozen(p, tensor.values);
  }

  // A dictionary as replace_parameters() reads it.
  struct DictRows {
    const StateDict<Scalar>& dict;

    void read(const PlacedParameter& p, std::size_t first, std::size_t rows, Scalar* to) const {
      const auto columns = static_cast<std::size_t>(p.parameter.columns()),
                 stride = static_cast<std::size_t>(padded(p.parameter.columns()));
      const Scalar* const from = dict.at(p.name).values.data() + first * columns;
      for (std::size_t row = 0; row < rows; ++row) std::copy_n(from + row * columns, columns, to + row * stride);
    }
  };

  Engine<A> engine_;
  mutable Exclusive in_use_;
  ModelOptions options_;
  Matrix<Scalar> step_logits_;
  std::vector<std::int32_t> chosen_, next_chosen_;
};

}  // namespace mamba
