// What the emulated machine knows a kernel by: in place of the library's header of this name.
#pragma once

#include "machine.hpp"

namespace mamba::cuda {

template <class... Parameters>
const void* function_of(void (*kernel)(Parameters...)) {
  return emulation::kernel_of(kernel);
}

}  // namespace mamba::cuda
