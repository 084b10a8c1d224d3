// What one caller uses at a time, and says so when a second one comes: from another thread, or from inside the first
// one's call.
#pragma once

#include <mamba/core/requirements.hpp>

#include <atomic>
#include <thread>

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
    Use(Exclusive& owner, const char* what) : owner_(&owner) { owner.take(what); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;
    ~Use() { owner_->release(); }

   private:
    Exclusive* owner_;
  };

  // The same for who only looks: from inside the first one's call, on its own thread, it may.
  class Look {
   public:
    Look(Exclusive& owner, const char* what)
        : owner_(owner.holder_.load(std::memory_order_acquire) == std::this_thread::get_id() ? nullptr : &owner) {
      if (owner_) owner_->take(what);
    }
    Look(const Look&) = delete;
    Look& operator=(const Look&) = delete;
    ~Look() {
      if (owner_) owner_->release();
    }

   private:
    Exclusive* owner_;
  };

 private:
  void take(const char* what) {
    std::thread::id nobody{};
    require(holder_.compare_exchange_strong(nobody, std::this_thread::get_id(), std::memory_order_acquire), what,
            " is in use: by another thread, or by the call that this one was made from (a visitor's or a loss's)");
  }
  void release() { holder_.store(std::thread::id{}, std::memory_order_release); }

  std::atomic<std::thread::id> holder_{std::thread::id{}};
};

}  // namespace mamba
