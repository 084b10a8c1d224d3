// The sizes of a model, fixed at compile time, under mamba_ssm's names.
//
// The letters used in every shape comment of the library:
//   B batch              L sequence length       T rows of a tile: its tokens, sequence after sequence
//   D d_model            E d_inner = expand * D  N d_state       K d_conv       R dt_rank = ceil(D / 16)
//   V vocab_size         Vp padded vocabulary    M layers
//   H heads, P headdim, G groups (Mamba-2 and Mamba-3)
//   R rank, Na angles of a head (Mamba-3)
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include <mamba/core/error.hpp>
#include <mamba/core/finite.hpp>

namespace mamba {

// A structural type: `inline constexpr mamba::Config c{...}; mamba::MambaForComposite<c> model(...)`.
struct Config {
  int vocab_size = 100;
  int d_model = 32;
  int d_state = 128;
  int d_conv = 4;
  int expand = 2;
  int max_seq_len = 0;  // the longest sequence that a call may hold; 0: any
  int pad_vocab_size_multiple = 8;

  constexpr int d_inner() const { return expand * d_model; }
  constexpr int dt_rank() const { return (d_model + 15) / 16; }
  constexpr int padded_vocab_size() const {
    return (vocab_size + pad_vocab_size_multiple - 1) / pad_vocab_size_multiple * pad_vocab_size_multiple;
  }
  constexpr bool operator==(const Config&) const = default;

  constexpr bool positive() const {
    return vocab_size > 0 && d_model > 0 && d_state > 0 && d_conv > 0 && expand > 0 && max_seq_len >= 0 &&
           pad_vocab_size_multiple > 0;
  }
};

// Which size of a weight gamma's rule takes for d1: of its output, the first dimension as stored (the origin), or of
// its input (what "x W" with W in R^(d1 x d2) would say; d_conv of the convolution). A lookup's input are its rows: for
// the embedding both are the same.
enum class Fan { out, in };

// Roles of weights and biases (network/parameters.hpp) that gamma's rule leaves to mamba_ssm's laws.
struct GammaExcept {
  bool embedding = false, position = false, projection = false, convolution = false, head = false;
  bool convolution_bias = false, step_bias = false, key_bias = false;
  bool operator==(const GammaExcept&) const = default;
};

// How a GPU multiplies matrices of floats.
enum class Products {
  exact,  // as exactly as float is: by three multiplications on the tensor cores
  tf32,   // by one, of operands that are rounded to TF32's 11 bits (PyTorch's allow_tf32)
};

// How much of a GPU works on a tile of a batch.
enum class Scope {
  by_sizes,  // Cuda: whichever is faster for the call's sizes; CudaBlock, CudaGrid: as they say
  block,     // a thread block, many tiles at once, one for each token of decoding, too; what it has no kernels for (a
             // loss of the user's own, interventions, gradients through states) runs over the grid all the same
  grid,      // the whole device
};

// How the next token is chosen from a sequence's logits.
struct Sampling {
  double temperature = 0;  // 0: the likeliest token; else at random as softmax(logits / temperature) says
  std::uint64_t seed = 0;

  void check() const {
    require(temperature == 0 || (temperature >= 1e-6 && temperature <= 1e6),
            "the temperature must be 0, for the likeliest token, or 1e-6 to 1e6; given ", temperature);
  }
};

// What a model is built from at run time.
struct ModelOptions {
  int n_layers = 2;
  std::optional<double> gamma{};  // weights ~ Normal(0, d1^-2gamma); empty: mamba_ssm's own initialisation
  Fan gamma_fan = Fan::out;
  GammaExcept gamma_except{};
  bool gamma_zeroes_biases = true;  // as the origin; else they are drawn as mamba_ssm draws them: steps of 0.001 .. 0.1
  std::optional<double>
      embedding_std{};  // of the embedding's initial values; empty: gamma's rule (d1 the vocabulary), or 0.02
  std::optional<double> position_std{};  // of LearnedPosition's; empty: gamma's rule (d1 the longest sequence), or 0.02
  std::uint64_t seed = 0;
  bool draw = true;  // off: trained parameters are zero, for a model whose parameters are about to be loaded
  int threads = 0;   // 0: all cores
  int device = 0;    // the GPU's index; the CPU has none
  Products products = Products::exact;  // of float on a GPU; what computes otherwise, or in double, is exact
  Scope scope = Scope::by_sizes;        // on a GPU
  // How many bytes of activations a tile of a batch may take where a model runs over the whole GPU. With the sizes of
  // model and batch it decides how a batch is cut, and so the order of sums; what memory is free does not. A single
  // sequence may take more.
  std::size_t tile_bytes = std::size_t{32} << 30;

  // Throws Error for n_layers < 1, a gamma, embedding_std or position_std that is negative or not finite, threads < 0.
  void check() const {
    require(n_layers >= 1, "a model has at least one layer; n_layers is ", n_layers);
    require(n_layers <= 1'000'000, "a model has at most 1000000 layers; n_layers is ", n_layers);
    require(!gamma || (is_finite(*gamma) && *gamma >= 0), "gamma must be a number from 0 on; given ",
            gamma.value_or(0));
    for (const auto& [width, what] : {std::pair(embedding_std, "the embedding"), std::pair(position_std, "positions")})
      require(!width || (is_finite(*width) && *width >= 0), "the standard deviation of ", what,
              " must be a number from 0 on; given ", width.value_or(0));
    require(threads >= 0 && threads <= 65536, "threads must be 0 (all cores) to 65536; given ", threads);
    require(device >= 0, "the index of a GPU is 0 or more; given ", device);
    require(tile_bytes > 0, "a tile must be allowed some bytes");
  }
};

}  // namespace mamba
