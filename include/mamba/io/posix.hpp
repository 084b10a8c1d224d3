// What a POSIX system needs to write a file whole: where a path leads, a temporary file that nobody else can own, and
// writes whose failures are errors and no signals. Empty elsewhere.
#pragma once

#if defined(__unix__) || defined(__APPLE__)

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>  // NOLINT(modernize-deprecated-headers): POSIX
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include <mamba/core/error.hpp>

namespace mamba::io::detail {

// The system's words for an errno.
inline std::string reason_text(int reason) { return std::generic_category().message(reason); }

// Calls again what a signal interrupted.
template <class Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { reset(); }

  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }
  int get() const { return fd_; }
  bool open() const { return fd_ >= 0; }

 private:
  int fd_;
};

// While it lives, a write beyond the permitted size or into a pipe that nobody reads fails, and sends this thread no
// signal that would end the program.
class QuietWrites {
 public:
  QuietWrites() {
    sigset_t waiting;
    sigpending(&waiting);
    sigemptyset(&ours_);
    for (const int signal : {SIGPIPE, SIGXFSZ})
      if (sigismember(&waiting, signal) == 0)
        sigaddset(&ours_, signal);  // one that waits already is not for us to take
    pthread_sigmask(SIG_BLOCK, &ours_, &before_);
  }
  QuietWrites(const QuietWrites&) = delete;
  QuietWrites& operator=(const QuietWrites&) = delete;
  ~QuietWrites() {
    sigset_t waiting;
    while (sigpending(&waiting) == 0 && take_one(waiting)) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  bool take_one(const sigset_t& waiting) {
    for (const int signal : {SIGPIPE, SIGXFSZ}) {
      if (sigismember(&waiting, signal) != 1 || sigismember(&ours_, signal) != 1) continue;
      sigset_t one;
      sigemptyset(&one);
      sigaddset(&one, signal);
#if defined(__APPLE__)
      int taken = 0;
      return sigwait(&one, &taken) == 0;
#else
      const timespec at_once{};
      return sigtimedwait(&one, nullptr, &at_once) == signal;
#endif
    }
    return false;
  }

  sigset_t ours_, before_;
};

// Writes all bytes; 0 or the errno of what failed.
inline int write_all(int fd, std::string_view rest) {
  constexpr std::size_t at_most = std::size_t(1) << 30;  // some systems take no more than an int's at once
  const QuietWrites quiet;
  while (!rest.empty()) {
    const auto written = uninterrupted([&] { return ::write(fd, rest.data(), (std::min)(rest.size(), at_most)); });
    if (written < 0) return errno;
    if (written == 0) return EIO;
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  return 0;
}

// Where a write goes.
struct Target {
  std::filesystem::path path;  // no symbolic link; what lies there may be missing
  int own_descriptor = -1;     // of this process, where the path names one, as /dev/stdout does
  bool exists = false;
  struct stat info{};
};

// The number of an open file of this process that a path names, or -1.
inline int named_descriptor(const std::filesystem::path& path) {
  const std::string folder = path.parent_path().string(), name = path.filename().string();
  if (folder != "/dev/fd" && folder != "/proc/self/fd" && folder != "/proc/thread-self/fd" &&
      folder != "/proc/" + std::to_string(::getpid()) + "/fd")
    return -1;
  int number = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  return error == std::errc() && end == name.data() + name.size() ? number : -1;
}

// Follows symbolic links to the end, to a file that is not there yet, too. Throws Error(cannot_write).
inline Target target_of(const std::filesystem::path& path) {
  constexpr int most_links = 40;
  Target target;
  target.path = path;
  for (int links = 0; links <= most_links; ++links) {
    target.own_descriptor = named_descriptor(target.path);
    if (target.own_descriptor >= 0) return target;
    target.exists = ::lstat(target.path.c_str(), &target.info) == 0;
    if (!target.exists && errno != ENOENT)
      fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": ", reason_text(errno));
    if (!target.exists || !S_ISLNK(target.info.st_mode)) return target;
    std::error_code error;
    const std::filesystem::path next = std::filesystem::read_symlink(target.path, error);
    if (error)
      fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": the link ", target.path.string(),
           " cannot be read: ", error.message());
    target.path = target.path.parent_path() / next;
  }
  fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": more than ", most_links,
       " symbolic links, one after the other, or links in a circle");
}

// The temporary files of one target: `.name.<process>-<16 hexadecimal digits>.tmp` beside it. Its writer holds a lock
// on each as long as it lives, so that what a dead one left can be told from what another is writing.
class Temporary {
 public:
  // A new, empty, locked file, with the rights `mode` as far as the process's mask allows. Throws Error(cannot_write)
  // that names `path`.
  Temporary(const std::filesystem::path& target, mode_t mode, const std::filesystem::path& path) {
    const std::filesystem::path folder = folder_of(target);
    const std::string begin = beginning(target.filename().string());
    remove_leftovers(folder, [&](std::string_view other) { return other == begin; });
    for (int attempt = 0; attempt < 100; ++attempt) {
      path_ = folder / (begin + std::to_string(::getpid()) + "-" + hexadecimal(unique_number()) + ".tmp");
      file_.reset(uninterrupted(
          [&] { return ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode); }));
      if (!file_.open() && errno == EEXIST) continue;
      if (!file_.open()) {
        const int reason = errno;
        path_.clear();
        fail(ErrorKind::cannot_write, "cannot write ", path.string(),
             ": a file is written beside its target and renamed, and no new file can be made in ", folder.string(),
             ": ", reason_text(reason));
      }
      // Who cleans up may have taken it for a dead writer's before it was locked. A system without locks removes
      // nothing.
      if (uninterrupted([&] { return ::flock(file_.get(), LOCK_EX | LOCK_NB); }) != 0 && errno == EWOULDBLOCK) continue;
      struct stat info{};
      if (::fstat(file_.get(), &info) == 0 && info.st_nlink > 0) return;
    }
    path_.clear();
    fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": no name for a temporary file in ", folder.string(),
         " is free");
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;
  ~Temporary() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  int descriptor() const { return file_.get(); }

  // Removes what dead writers left beside targets in the folder, of those whose beginning() is_one(beginning) takes.
  template <class F>
  static void remove_leftovers(const std::filesystem::path& folder, const F& is_one) {
    std::error_code error;
    for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
      const std::string name = entry->path().filename().string();
      const std::string_view begin = beginning_of(name);
      if (begin.empty() || !is_one(begin)) continue;
      const Descriptor left(::open(entry->path().c_str(), O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
      struct stat opened{}, named{};
      if (!left.open() || ::fstat(left.get(), &opened) != 0 || !S_ISREG(opened.st_mode)) continue;
      if (::flock(left.get(), LOCK_EX | LOCK_NB) != 0) continue;  // its writer lives
      // Whoever holds the lock may remove the name, if it is still this file's.
      if (::lstat(entry->path().c_str(), &named) == 0 && named.st_dev == opened.st_dev && named.st_ino == opened.st_ino)
        ::unlink(entry->path().c_str());
    }
  }

  // Owner, group and rights as of the file that is replaced; where the system keeps us from giving it away, nobody
  // gains a right. 0 or an errno.
  int take_rights(const struct stat& old) {
    struct stat own{};
    if (::fstat(file_.get(), &own) != 0) return errno;
    const bool owner = own.st_uid == old.st_uid || ::fchown(file_.get(), old.st_uid, static_cast<gid_t>(-1)) == 0;
    const bool group = own.st_gid == old.st_gid || ::fchown(file_.get(), static_cast<uid_t>(-1), old.st_gid) == 0;
    mode_t mode = old.st_mode & 07777U;
    if (!owner) mode &= ~static_cast<mode_t>(S_ISUID);
    if (!group) mode &= ~static_cast<mode_t>(S_ISGID | S_IRWXG) | ((mode & S_IRWXO) << 3);
    if (::fstat(file_.get(), &own) != 0) return errno;
    return (own.st_mode & 07777U) == mode || ::fchmod(file_.get(), mode) == 0 ? 0 : errno;
  }

  // Replaces what was there, once all bytes are on the disk; 0 or an errno.
  int move_to(const std::filesystem::path& target) {
    if (uninterrupted([&] { return ::fsync(file_.get()); }) != 0) return errno;
    if (::rename(path_.c_str(), target.c_str()) != 0) return errno;
    path_.clear();
    // The rename itself is safe once the folder is synced; a file system that cannot do that is left to its own.
    if (const Descriptor folder(::open(folder_of(target).c_str(), O_RDONLY | O_CLOEXEC)); folder.open())
      (void)::fsync(folder.get());
    return 0;
  }

 private:
  static std::filesystem::path folder_of(const std::filesystem::path& target) {
    return target.has_parent_path() ? target.parent_path() : std::filesystem::path(".");
  }
  static std::string hexadecimal(std::uint64_t x) {
    std::string text(16, '0');
    for (std::size_t i = text.size(); i-- > 0; x >>= 4) text[i] = "0123456789abcdef"[x & 15];
    return text;
  }
  static std::uint64_t unique_number() {
    static std::atomic<std::uint64_t> count{0};
    const auto now = static_cast<std::uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
    return now * 1009 + count.fetch_add(1);  // should another have the same, the file system tells
  }
  // A long name is cut, so that the temporary one is not too long, and told from others by its hash.
  static std::string beginning(std::string name) {
    constexpr std::size_t longest = 80;
    if (name.size() > longest) {
      std::uint64_t hash = 14695981039346656037ULL;  // FNV-1a
      for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
      std::size_t end = longest;
      while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xC0U) == 0x80U) --end;  // not within a character
      name = name.substr(0, end) + "~" + hexadecimal(hash);
    }
    return "." + name + ".";
  }
  // `.name.` of a temporary file's name; empty where it is none.
  static std::string_view beginning_of(std::string_view name) {
    constexpr std::string_view end = ".tmp", digits = "0123456789";
    if (!name.starts_with('.') || !name.ends_with(end)) return {};
    name.remove_suffix(end.size());
    const std::string_view begin = name.substr(0, name.rfind('.') + 1), unique = name.substr(begin.size());
    const std::size_t process = unique.find_first_not_of(digits);
    const bool is_one = begin.size() > 2 && process > 0 && process != std::string_view::npos &&
                        unique[process] == '-' && unique.size() == process + 17 &&
                        unique.find_first_not_of("0123456789abcdef", process + 1) == std::string_view::npos;
    return is_one ? begin : std::string_view();
  }

  std::filesystem::path path_;
  Descriptor file_;
};

// Opens a FIFO or a character device for writing; waits a little for a FIFO's reader. Throws Error(cannot_write) that
// names `path`.
inline int open_to_write_directly(const Target& target, const std::filesystem::path& path) {
  using std::chrono::steady_clock;
  constexpr auto patience = std::chrono::seconds(3);
  const bool fifo = S_ISFIFO(target.info.st_mode);
  const auto start = steady_clock::now();
  for (;;) {
    const int fd = uninterrupted([&] {
      return ::open(target.path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | (fifo ? O_NONBLOCK : 0));
    });
    const int reason = errno;
    struct stat now{};
    if (fd >= 0 && ::fstat(fd, &now) == 0 && (now.st_mode & S_IFMT) == (target.info.st_mode & S_IFMT)) {
      if (fifo) ::fcntl(fd, F_SETFL, O_WRONLY);  // a full pipe is waited for
      return fd;
    }
    if (fd >= 0) {
      ::close(fd);
      fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": it was replaced while it was opened");
    }
    if (!fifo || reason != ENXIO)
      fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": ", reason_text(reason));
    if (steady_clock::now() - start > patience)
      fail(ErrorKind::cannot_write, "cannot write ", path.string(), ": it is a pipe, and nobody reads from it");
    const timespec a_moment{0, 10'000'000};
    ::nanosleep(&a_moment, nullptr);
  }
}

}  // namespace mamba::io::detail

#endif
