// A policy answers one question about a model: MambaForComposite<config, Cpu, double, Mamba1> answers three and leaves
// the others to their defaults. Policies come in any order; two answers to one question, or a type that answers none,
// do not compile and say so.
//
// A policy is an empty struct that names its question as `answers`; the concept with the question's name says what
// else it must hold. A new answer is a new struct here and its meaning in network/; a new question is one more tag,
// concept and default.
#pragma once

#include <concepts>
#include <type_traits>

#include <mamba/core/config.hpp>
#include <mamba/core/instruction_set.hpp>
#include <mamba/core/storage.hpp>

namespace mamba {

namespace question {
struct Backend {};       // where does it run?
struct Precision {};     // in which precision?
struct Mixer {};         // which block mixes the tokens?
struct ConvKernel {};    // is the convolution's kernel learned?
struct Position {};      // what is added to the embedding for the position?
struct ConvResidual {};  // what bypasses the convolution?
struct Head {};          // does the head share the embedding's weight?
}  // namespace question

template <class Policy>
struct QuestionOf {
  using type = void;
};
template <class Policy>
requires requires { typename Policy::answers; }
struct QuestionOf<Policy> {
  using type = typename Policy::answers;
};
template <std::floating_point T>
struct QuestionOf<T> {
  using type = question::Precision;
};
template <>
struct QuestionOf<BFloat16> {
  using type = question::Precision;
};
template <>
struct QuestionOf<Int8Weights> {
  using type = question::Precision;
};

template <class Policy, class Question>
concept Answers = std::same_as<typename QuestionOf<Policy>::type, Question>;

template <class P>
concept BackendPolicy = Answers<P, question::Backend> && requires {
  { P::name } -> std::convertible_to<const char*>;
};
template <class P>
concept PrecisionPolicy =
    std::same_as<P, float> || std::same_as<P, double> || std::same_as<P, BFloat16> || std::same_as<P, Int8Weights>;
template <class P>
concept MixerPolicy = Answers<P, question::Mixer> && requires {
  { P::name } -> std::convertible_to<const char*>;
};
template <class P>
concept ConvKernelPolicy = Answers<P, question::ConvKernel> && requires {
  { P::name } -> std::convertible_to<const char*>;
  { P::learned_weight } -> std::convertible_to<bool>;
  { P::learned_bias } -> std::convertible_to<bool>;
};
template <class P>
concept PositionPolicy = Answers<P, question::Position> && requires {
  { P::name } -> std::convertible_to<const char*>;
};
template <class P>
concept ConvResidualPolicy = Answers<P, question::ConvResidual> && requires {
  { P::name } -> std::convertible_to<const char*>;
};
template <class P>
concept HeadPolicy = Answers<P, question::Head> && requires {
  { P::name } -> std::convertible_to<const char*>;
};

// --- the answers -----------------------------------------------------------------------------------------------

inline namespace MAMBA_INSTRUCTION_SET {
struct Cpu {
  using answers = question::Backend;
  static constexpr const char* name = "cpu";
};
}  // namespace MAMBA_INSTRUCTION_SET

// An NVIDIA GPU of compute capability 8.0 or newer, in sources that nvcc compiles: CudaBlock's way or CudaGrid's, as
// the sizes of model and batch make faster (engine/cuda_scope.hpp).
struct Cuda {
  using answers = question::Backend;
  static constexpr const char* name = "cuda";
};

// A tile of tokens for each block, for configurations that fit a block's shared memory.
struct CudaBlock {
  using answers = question::Backend;
  static constexpr const char* name = "cuda-block";
};

// All blocks working on one primitive after the other, over the whole batch: any sizes, any length.
struct CudaGrid {
  using answers = question::Backend;
  static constexpr const char* name = "cuda-grid";
};

struct Mamba1 {
  using answers = question::Mixer;
  static constexpr const char* name = "mamba1";
};

// headdim 0: one head of d_inner channels. B and C are shared by the heads of a group. norm_groups: in so many groups
// of columns a gated row is normed; 0: as many as ngroups, as mamba_ssm does it, while transformers' own path norms the
// whole row, 1.
template <int headdim_ = 0, int ngroups_ = 1, int norm_groups_ = 0>
struct Mamba2 {
  static_assert(headdim_ >= 0, "mamba: Mamba2's headdim must be positive, or 0 for one head");
  static_assert(ngroups_ > 0, "mamba: Mamba2's ngroups must be positive");
  static_assert(norm_groups_ >= 0, "mamba: Mamba2's norm_groups must be positive, or 0 for ngroups");
  using answers = question::Mixer;
  static constexpr const char* name = "mamba2";
  static constexpr int headdim = headdim_, ngroups = ngroups_,
                       norm_groups = norm_groups_ == 0 ? ngroups_ : norm_groups_;
};

// The sizes and choices of Mamba-3 beside those of Config, of which it has no use for d_conv.
struct Mamba3Config {
  int headdim = 0;             // 0: one head of d_inner channels
  int ngroups = 1;             // keys and queries are shared by the heads of a group, but for biases and angles
  int rank = 0;                // 0: one input and output a head (SISO); else so many (MIMO, mamba_ssm's mimo_rank)
  bool rotates_all = false;    // whether all pairs of states turn (rope_fraction 1), or half of them
  bool output_norm = false;    // whether each head's output is normed before its gate (is_outproj_norm)
  bool softplus_rate = false;  // how rates come from the input: as in mamba_ssm before June 2026, or as since then

  constexpr bool operator==(const Mamba3Config&) const = default;
  constexpr bool valid() const { return headdim >= 0 && ngroups > 0 && rank >= 0; }
};

template <Mamba3Config config_ = Mamba3Config{}>
struct Mamba3 {
  static_assert(config_.valid(), "mamba: Mamba3's ngroups must be positive, headdim and rank positive or 0");
  using answers = question::Mixer;
  static constexpr const char* name = "mamba3";
  static constexpr Mamba3Config config = config_;
};

struct LearnedConv {
  using answers = question::ConvKernel;
  static constexpr const char* name = "learned";
  static constexpr bool learned_weight = true, learned_bias = true;
};

// All weights 1 and frozen: no gradient, no optimiser state, no decay; the bias is learned.
struct OnesConv {
  using answers = question::ConvKernel;
  static constexpr const char* name = "ones";
  static constexpr bool learned_weight = false, learned_bias = true;
};

// The same with the bias zero and frozen too.
struct FrozenOnesConv {
  using answers = question::ConvKernel;
  static constexpr const char* name = "ones-frozen";
  static constexpr bool learned_weight = false, learned_bias = false;
};

struct NoPosition {
  using answers = question::Position;
  static constexpr const char* name = "none";
};

// A learned vector for each position below max_seq_len is added to the embedding (position_embedding.weight).
template <int max_seq_len>
struct LearnedPosition {
  static_assert(max_seq_len > 0, "mamba: LearnedPosition needs a positive max_seq_len");
  using answers = question::Position;
  static constexpr const char* name = "learned";
  static constexpr int positions = max_seq_len;
};

// sin and cos of the position are added to the embedding; any length (specification, section 10).
struct SinusoidalPosition {
  using answers = question::Position;
  static constexpr const char* name = "sinusoidal";
};

// With c the convolution's output after SiLU and x its input, what the rest of the block uses (specification, section
// 10):
struct NoConvResidual {  // c
  using answers = question::ConvResidual;
  static constexpr const char* name = "none";
};
struct ConvResidual {  // c + x
  using answers = question::ConvResidual;
  static constexpr const char* name = "identity";
};
struct ConvGate {  // c * x, element by element
  using answers = question::ConvResidual;
  static constexpr const char* name = "gate";
};
struct LinearConvResidual {  // c + W x, W learned (mixer.residual_proj.weight)
  using answers = question::ConvResidual;
  static constexpr const char* name = "linear";
};

// The logits are products with the embedding's rows, as mamba_ssm's are by default ...
struct TiedHead {
  using answers = question::Head;
  static constexpr const char* name = "tied";
};
// ... or with those of a weight of the head's own (lm_head.weight).
struct UntiedHead {
  using answers = question::Head;
  static constexpr const char* name = "untied";
};

// --- from a list of policies to one canonical type ---------------------------------------------------------------

namespace detail {

template <class Question, class... Policies>
inline constexpr int answer_count = (0 + ... + (Answers<Policies, Question> ? 1 : 0));

template <class Question, class Default, class... Policies>
struct Answer {
  using type = Default;
};
template <class Question, class Default, class First, class... Rest>
struct Answer<Question, Default, First, Rest...> {
  using type = typename std::conditional_t<Answers<First, Question>, std::type_identity<First>,
                                           Answer<Question, Default, Rest...>>::type;
};

template <class P>
inline constexpr bool answers_a_question = !std::is_void_v<typename QuestionOf<P>::type>;

}  // namespace detail

// Every question answered, in a fixed order: what the whole library below the models is a template over.
template <Config config_, BackendPolicy Backend_, PrecisionPolicy Precision_, MixerPolicy Mixer_,
          ConvKernelPolicy ConvKernel_, PositionPolicy Position_, ConvResidualPolicy ConvResidual_, HeadPolicy Head_>
struct Architecture {
  static constexpr Config config = config_;
  using Backend = Backend_;
  using Precision = Precision_;
  // What activations and weights are stored in; what is computed and summed in, which is also what the optimiser holds
  // and what users are given.
  using Storage = typename StorageOf<Precision_>::Activations;
  using WeightStorage = typename StorageOf<Precision_>::Weights;
  using Scalar = ComputeOf<Storage>;
  static constexpr bool trains = !std::is_same_v<Precision_, Int8Weights>;
  using Mixer = Mixer_;
  using ConvKernel = ConvKernel_;
  using Position = Position_;
  using ConvResidual = ConvResidual_;
  using Head = Head_;
};

namespace detail {

template <Config config, class... Policies>
struct Resolve {
  static_assert(config.positive(), "mamba: every size in Config must be positive (max_seq_len may be 0)");
  static_assert((answers_a_question<Policies> && ...),
                "mamba: a template argument of the model is not a policy: it answers no question");
  static_assert(answer_count<question::Backend, Policies...> <= 1, "mamba: two policies say where the model runs");
  static_assert(answer_count<question::Precision, Policies...> <= 1, "mamba: two policies name the precision");
  static_assert(answer_count<question::Mixer, Policies...> <= 1, "mamba: two policies name the mixer");
  static_assert(answer_count<question::ConvKernel, Policies...> <= 1,
                "mamba: two policies name the convolution kernel");
  static_assert(answer_count<question::Position, Policies...> <= 1, "mamba: two policies name the position");
  static_assert(answer_count<question::ConvResidual, Policies...> <= 1,
                "mamba: two policies name what bypasses the convolution");
  static_assert(answer_count<question::Head, Policies...> <= 1, "mamba: two policies name the head");
  using type = Architecture<config, typename Answer<question::Backend, Cpu, Policies...>::type,
                            typename Answer<question::Precision, float, Policies...>::type,
                            typename Answer<question::Mixer, Mamba1, Policies...>::type,
                            typename Answer<question::ConvKernel, LearnedConv, Policies...>::type,
                            typename Answer<question::Position, NoPosition, Policies...>::type,
                            typename Answer<question::ConvResidual, NoConvResidual, Policies...>::type,
                            typename Answer<question::Head, TiedHead, Policies...>::type>;
};

}  // namespace detail

// The architecture that a configuration and any subset of policies, in any order, stand for.
template <Config config, class... Policies>
using Resolve = typename detail::Resolve<config, Policies...>::type;

}  // namespace mamba
