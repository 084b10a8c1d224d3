// Small models of sizes that ask something of kernels over the whole device.
#pragma once

#include <mamba/language_model.hpp>

namespace support {

inline constexpr mamba::Config tiny_config{.vocab_size = 11, .d_model = 8, .d_state = 5},
    odd_config{.vocab_size = 50, .d_model = 24, .d_state = 70, .d_conv = 3},
    wide_config{.vocab_size = 50, .d_model = 48, .d_state = 24},
    broad_config{.vocab_size = 100, .d_model = 128, .d_state = 128};

}  // namespace support
