// What the runtime knows a kernel by.
#pragma once

namespace mamba::cuda {

template <class... Parameters>
const void* function_of(void (*kernel)(Parameters...)) {
  return reinterpret_cast<const void*>(kernel);
}

}  // namespace mamba::cuda
