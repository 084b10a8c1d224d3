// The same where heads have several inputs and outputs.
#include "support/rotary_block.hpp"

using namespace support::rotary;

TEST_CASE("CUDA: Mamba-3's recurrence is the CPU's where heads have several inputs and outputs") {
  support::need_device();
  check_scans<OneBlock, Shape<2, 32, 1, 64, 4, 16>>(mixed_lengths);
  check_scans<OneBlock, Shape<1, 64, 1, 128, 2, 64>>({8, 20});
  check_scans<OneBlock, Shape<4, 6, 2, 6, 3, 1>>(mixed_lengths);
  check_scans<OneBlock, Shape<2, 5, 1, 10, 1, 5>>(mixed_lengths);
  check_scans_of<OneBlock, float, Shape<2, 16, 2, 36, 8, 9>>({1, 2, 7, 12});  // in double four are the most
  check_scans<OneBlock, Shape<2, 16, 2, 36, 4, 9>>({1, 2, 7, 12});
}

TEST_CASE("CUDA: the gates of several outputs of a head are the CPU's") {
  support::need_device();
  check_gates<OneBlock, 2, 64, 4>(128);
  check_gates<OneBlock, 3, 5, 3>(37);
  check_gates<OneBlock, 1, 300, 2>(9);
  check_gates<OneBlock, 40, 8, 1>(21);
}
