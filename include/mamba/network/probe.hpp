// A way to look and reach inside: a visitor called at named points of every block (specification, section 11.3).
//
// The probe is a template argument of the network. NoProbe, the default, is empty functions: no code is generated.
#pragma once

#include <mamba/core/macros.hpp>
#include <mamba/core/views.hpp>

namespace mamba {

// Where a probe is called, in the order of the forward pass; the widths are those of Mamba-1 / Mamba-2 / Mamba-3. A
// mixer visits what it has.
enum class Point {
  residual,      // the residual stream that enters the block (D)
  normed_input,  // the same after the block's norm (D)
  conv_input,    // x (E / E + 2GN / none)
  conv_output,   // u, what the block uses of the convolution after SiLU and bypass (E / E + 2GN); x, B and C, which
                 // Mamba-3 takes as they are projected (E + 2RGN)
  b,             // B (N / GN / RGN)
  c,             // C (N / GN / RGN)
  delta,         // the step size after softplus (E / H / H)
  log_decay,     // the logarithm of what states decay by at this token (none / none / H)
  trapezoid,     // the weight of the token's own input, the rest being the last token's (none / none / H)
  angles,        // by which keys and queries have turned up to this token, in radians, -pi .. pi (none / none / H Na)
  scan_output,   // y, the state-space model's output with its skip (E / E / RE: for each head, for each of its ranks)
  gated_output,  // what enters out_proj (E)
};
// A layer visits each of them at most once.
inline constexpr int point_count = static_cast<int>(Point::gated_output) + 1;

namespace network {

struct NoProbe {
  MAMBA_HOST_DEVICE void layer(int) {}
  // The rows at hand may be read and written.
  template <Point, class T>
  MAMBA_HOST_DEVICE void visit(MatrixView<T>) {}
  // The same of angles, which are no numbers (math/turns.hpp).
  template <Point, class I>
  MAMBA_HOST_DEVICE void visit_angles(MatrixView<I>) {}
  // Their gradients, in the backward pass.
  template <Point, class T>
  MAMBA_HOST_DEVICE void visit_gradient(MatrixView<T>) {}
  // Which rows the state-space model forgets after reading them (BlockedRows), or none.
  MAMBA_HOST_DEVICE NoRows blocked_rows() const { return {}; }
  // Whether some rows shall have the output that they have without blocking; restore(y, unblocked) then picks them.
  static constexpr bool restores_rows = false;
};

}  // namespace network
}  // namespace mamba
