// What one caller uses at a time, and says so when a second one comes: from another thread, or from inside the first one's call.
#pragma once

#include <atomic>

#include <mamba/core/error.hpp>

namespace mamba {

class Exclusive {
 public:
  Exclusive() = default;
  // What is moved is not in use, and neither is what it is moved to.
  Exclusive(Exclusive&&) noexcept {}
  Exclusive& operator=(Exclusive&&) noexcept { return *this; }

  // Held for as long as a call lasts. Throws Error where somebody has it; `what` is named in the message.
  class Use {
   public:
    Use(Exclusive& owner, const char* what) : used_(owner.used_) {
      require(!used_.exchange(true, std::memory_order_acquire), what,
              " is in use: by another thread, or by the call that this one was made from (a visitor's or a loss's)");
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    ~Use() { used_.store(false, std::memory_order_release); }

   private:
    std::atomic<bool>& used_;
  };

 private:
  std::atomic<bool> used_{false};
};

}  // namespace mamba
