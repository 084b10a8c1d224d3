// The same at odd and large sizes.
#include "support/rotary_block.hpp"

using namespace support::rotary;

TEST_CASE("CUDA: Mamba-3's recurrence is the CPU's at odd sizes") {
  support::need_device();
  check_scans<OneBlock, Shape<4, 4, 2, 6, 0, 1>>(mixed_lengths);
  check_scans<OneBlock, Shape<6, 3, 3, 10, 0, 5>>(mixed_lengths);
  check_scans<OneBlock, Shape<2, 40, 1, 70, 0, 17>>({40, 1, 11});
  check_scans<OneBlock, Shape<1, 1, 1, 2, 0, 1>>({100, 1, 1, 2});
  check_scans<OneBlock, Shape<4, 16, 2, 64, 0, 32>>({1, 2, 39, 40});
}

TEST_CASE("CUDA: Mamba-3's recurrence is the CPU's at large sizes") {
  support::need_device();
  check_scans<OneBlock, Shape<3, 64, 1, 128, 0, 64>>({8, 20});
  check_scans<OneBlock, Shape<1, 96, 1, 264, 0, 66>>({3, 25});
}
