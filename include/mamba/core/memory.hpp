// Aligned memory: one owner (Buffer) and one way to cut it up (Carver).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <mamba/core/macros.hpp>

namespace mamba {

inline constexpr std::size_t cache_line = 64;

// Zeroed bytes at a multiple of a cache line. Grows by reallocation (contents are lost), never shrinks. What is large
// and has never been written takes no memory on Linux: a model that only decodes has no gradients.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes) { reserve(bytes); }
  Buffer(const Buffer& other) : Buffer(other.bytes_) {
    if (bytes_) std::memcpy(data_, other.data_, bytes_);
  }
  Buffer& operator=(const Buffer& other) {
    if (bytes_ != other.bytes_) return *this = Buffer(other);
    if (bytes_ && data_ != other.data_) std::memcpy(data_, other.data_, bytes_);
    return *this;
  }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer() { release(); }

  void reserve(std::size_t bytes) {
    if (bytes <= bytes_) return;
    release();
#if defined(__linux__)
    if (bytes >= large) {
      data_ = map(bytes);
      bytes_ = bytes;
      return;
    }
#endif
    data_ = ::operator new(bytes, std::align_val_t{cache_line});
    bytes_ = bytes;
    std::memset(data_, 0, bytes);
  }

  void clear() {
    if (bytes_) std::memset(data_, 0, bytes_);
  }

  std::size_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  static constexpr std::size_t large_page = std::size_t{2} << 20, large = 16 * large_page;

#if defined(__linux__)
  static std::size_t whole_pages(std::size_t bytes) { return (bytes + large_page - 1) / large_page * large_page; }

  // Zeroed pages, at a multiple of a large one: what lies before and behind in a mapping of one more is given back.
  // Reading a large model's weights is a quarter faster from large pages; where there are none the advice does nothing.
  static void* map(std::size_t bytes) {
    if (bytes > SIZE_MAX - 2 * large_page) throw std::bad_alloc();
    const std::size_t wanted = whole_pages(bytes);
    void* const found = mmap(nullptr, wanted + large_page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    auto* const begin = static_cast<std::byte*>(found);
    const std::size_t before = (large_page - reinterpret_cast<std::uintptr_t>(begin) % large_page) % large_page;
    if (before > 0) munmap(begin, before);
    munmap(begin + before + wanted, large_page - before);
    madvise(begin + before, wanted, MADV_HUGEPAGE);
    return begin + before;
  }
#endif

  void release() {
    if (!data_) return;
#if defined(__linux__)
    if (bytes_ >= large) munmap(data_, whole_pages(bytes_));
    else
#endif
      ::operator delete(data_, std::align_val_t{cache_line});
    data_ = nullptr;
    bytes_ = 0;
  }

  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Hands out aligned pieces of a block one behind the other. Over no block it only counts: the same code that lays
// memory out says how much it needs.
class Carver {
 public:
  Carver() = default;
  explicit MAMBA_HOST_DEVICE Carver(void* block) : block_(static_cast<std::byte*>(block)) {}

  template <class T>
  MAMBA_HOST_DEVICE T* take(std::size_t count) {
    T* const piece = block_ ? reinterpret_cast<T*>(block_ + used_) : nullptr;
    used_ += (count * sizeof(T) + cache_line - 1) / cache_line * cache_line;
    return piece;
  }
  template <class View>
  MAMBA_HOST_DEVICE void take(View& view, int rows) {
    view = {take<std::remove_pointer_t<decltype(view.data)>>(static_cast<std::size_t>(rows) * View::stride), rows};
  }
  MAMBA_HOST_DEVICE std::size_t used() const { return used_; }

 private:
  std::byte* block_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace mamba
