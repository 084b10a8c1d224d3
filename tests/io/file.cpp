#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <mamba/io/file.hpp>

#include "support/scratch.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MAMBA_TEST_SANITIZED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define MAMBA_TEST_SANITIZED
#endif
#endif

namespace fs = std::filesystem;
using Catch::Matchers::ContainsSubstring, Catch::Matchers::EndsWith;
using mamba::Error, mamba::ErrorKind, mamba::io::read_file, mamba::io::write_file;

namespace {

std::string text_of(const fs::path& path) {
  const std::vector<char> bytes = read_file(path);
  return {bytes.data(), bytes.size()};
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// The words of the error of the kind that f ends with; empty where it ends well.
template <class F>
std::string refusal(ErrorKind kind, F f) {
  try {
    f();
  } catch (const Error& error) {
    return error.kind() == kind ? error.what() : std::string("of another kind: ") + error.what();
  }
  return "";
}
std::string refused_write(const fs::path& path, const std::string& text = "new") {
  return refusal(ErrorKind::cannot_write, [&] { write_file(path, text); });
}
std::string refused_read(const fs::path& path) {
  return refusal(ErrorKind::bad_file, [&] { read_file(path); });
}

}  // namespace

TEST_CASE("a file is what was written, piece after piece") {
  const auto folder = support::scratch("file");
  write_file(folder / "f", "first, and longer");
  write_file(folder / "f", {"a", "", std::string_view("\0b", 2)});
  CHECK(text_of(folder / "f") == std::string("a\0b", 3));
  write_file(folder / "f", "");
  CHECK(text_of(folder / "f").empty());
  const std::string longest(255, 'n');  // as long as a name may be
  write_file(folder / longest, "x");
  write_file(folder / longest, "y");
  CHECK(text_of(folder / longest) == "y");
  CHECK(names_in(folder) == std::vector<std::string>{"f", longest});
}

TEST_CASE("what is no file is refused in words, by reading and by writing") {
  const auto folder = support::scratch("no-file");
  CHECK_THAT(refused_read(folder), ContainsSubstring(folder.string()) && ContainsSubstring("folder"));
  CHECK_THAT(refused_write(folder), ContainsSubstring(folder.string()) && ContainsSubstring("folder"));
  CHECK_THAT(refused_read(folder / "none"), ContainsSubstring("cannot open") && ContainsSubstring("No such file"));
  CHECK_THAT(refused_write(folder / "none" / "f"),
             ContainsSubstring((folder / "none" / "f").string()) && ContainsSubstring("No such file"));
  CHECK_THAT(refused_write(folder / "none/"), ContainsSubstring("no file's name"));
  CHECK_THAT(refused_read(""), ContainsSubstring("empty"));
  CHECK_THAT(refused_write(""), ContainsSubstring("empty"));
  CHECK_THAT(refused_write(folder / std::string("a\0b", 3)), ContainsSubstring("zero byte"));
  CHECK(names_in(folder).empty());
}

#if defined(__unix__) || defined(__APPLE__)

namespace {

int mode_of(const fs::path& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 ? static_cast<int>(info.st_mode & 07777U) : -1;
}

// What f returns in a child of this process: its exit code, or 1000 and the signal that ended it.
template <class F>
int in_child(F f) {
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 99;
    try {
      code = f();
    } catch (...) {
    }
    ::_exit(code);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Root may do everything: nobody is asked instead.
void become_somebody() {
  if (::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) ::_exit(98);
}

}  // namespace

TEST_CASE("pipes, devices and sockets are not read") {
  const auto folder = support::scratch("not-read");
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK_THAT(refused_read(folder / "pipe"), ContainsSubstring("no regular file"));
  for (const char* device : {"/dev/null", "/dev/zero", "/dev/tty"})
    if (fs::exists(device)) CHECK_THAT(refused_read(device), ContainsSubstring("no regular file"));
  fs::create_symlink(folder / "circle", folder / "circle");
  CHECK_THAT(refused_read(folder / "circle"), ContainsSubstring("cannot open"));
#if !defined(MAMBA_TEST_SANITIZED)  // a sanitizer ends the program instead
  std::error_code no_such_size;
  write_file(folder / "huge", "");
  fs::resize_file(folder / "huge", std::uintmax_t(1) << 43, no_such_size);  // a hole of 8 TiB
  if (!no_such_size)
    CHECK(in_child([&] {
            const rlimit limit{rlim_t(1) << 40, rlim_t(1) << 40};
            ::setrlimit(RLIMIT_AS, &limit);
            return refused_read(folder / "huge").find("no memory for its 8796093022208 bytes") == std::string::npos ? 1
                                                                                                                    : 0;
          }) == 0);
  fs::remove(folder / "huge");
#endif
#if defined(__linux__)
  CHECK_THAT(refused_read("/proc/self/status"),
             ContainsSubstring("size changed"));  // says that it is empty, and is not
#endif
}

TEST_CASE("symbolic links stay, and what they lead to is written") {
  const auto folder = support::scratch("links");
  fs::create_directory(folder / "far");
  write_file(folder / "far" / "target", "old");
  fs::create_symlink("far/target", folder / "link");
  fs::create_symlink("../link", folder / "far" / "chain");
  fs::create_directory_symlink("far", folder / "near");
  fs::create_symlink("far/missing", folder / "dangling");
  fs::create_symlink(folder / "circle_b", folder / "circle_a");
  fs::create_symlink("circle_a", folder / "circle_b");
  for (const char* name : {"link", "far/chain", "near/chain", "near/target"}) {
    write_file(folder / name, name);
    CHECK(text_of(folder / "far" / "target") == name);
  }
  write_file(folder / "dangling", "made");
  CHECK(text_of(folder / "far" / "missing") == "made");
  for (const char* name : {"link", "far/chain", "near", "dangling"}) CHECK(fs::is_symlink(folder / name));
  CHECK_THAT(refused_write(folder / "circle_a"), ContainsSubstring("links"));
  fs::create_symlink("none/f", folder / "nowhere");
  CHECK_THAT(refused_write(folder / "nowhere"), ContainsSubstring("No such file"));
  CHECK(names_in(folder / "far") == std::vector<std::string>{"chain", "missing", "target"});
  // What lies at a temporary file's old, predictable name is not touched.
  write_file(folder / "precious", "precious");
  fs::create_symlink("precious", folder / "f.tmp");
  write_file(folder / "f", "new");
  CHECK(text_of(folder / "precious") == "precious");
  CHECK_FALSE(fs::is_symlink(folder / "f"));
}

TEST_CASE("rights and owner stay as they were, and a new file has the usual ones") {
  const auto folder = support::scratch("rights");
  const int usual = ::open((folder / "usual").c_str(), O_CREAT | O_WRONLY, 0666);
  REQUIRE(usual >= 0);
  ::close(usual);
  write_file(folder / "f", "new");
  CHECK(mode_of(folder / "f") == mode_of(folder / "usual"));
  for (const int mode : {0600, 0640, 0666, 0755, 0200}) {
    REQUIRE(::chmod((folder / "f").c_str(), static_cast<mode_t>(mode)) == 0);
    write_file(folder / "f", "again");
    CHECK(mode_of(folder / "f") == mode);
  }
  if (::geteuid() == 0) {
    REQUIRE(::chown((folder / "f").c_str(), 1234, 4321) == 0);
    REQUIRE(::chmod((folder / "f").c_str(), 06750) == 0);
    write_file(folder / "f", "root's");
    struct stat info{};
    REQUIRE(::stat((folder / "f").c_str(), &info) == 0);
    CHECK(info.st_uid == 1234);
    CHECK(info.st_gid == 4321);
    CHECK(mode_of(folder / "f") == 06750);
    // Somebody who may write the file, and not give files away: nobody gains a right.
    REQUIRE(::chmod((folder / "f").c_str(), 06672) == 0);
    REQUIRE(::chmod(folder.c_str(), 0777) == 0);
    CHECK(in_child([&] {
            become_somebody();
            write_file(folder / "f", "somebody's");
            return 0;
          }) == 0);
    CHECK(text_of(folder / "f") == "somebody's");
    CHECK(mode_of(folder / "f") == 0622);
  }
}

TEST_CASE("without the right to write, a file and its folder stay as they are") {
  const auto folder = support::scratch("read-only");
  fs::create_directory(folder / "closed");
  write_file(folder / "closed" / "f", "old");
  write_file(folder / "protected", "old");
  fs::permissions(folder / "closed" / "f", fs::perms(0666));
  fs::permissions(folder / "protected", fs::perms(0444));
  fs::permissions(folder / "closed", fs::perms(0555));
  fs::permissions(folder, fs::perms(0777));
  CHECK(in_child([&] {
          become_somebody();
          const std::string closed = refused_write(folder / "closed" / "f"),
                            fresh = refused_write(folder / "closed" / "g"), file = refused_write(folder / "protected");
          for (const std::string& words : {closed, fresh})
            if (words.find("no new file can be made in " + (folder / "closed").string() + ": Permission denied") ==
                words.npos)
              return 1;
          return file.find("Permission denied") == file.npos ? 2 : 0;
        }) == 0);
  fs::permissions(folder / "closed", fs::perms(0755));
  CHECK(text_of(folder / "closed" / "f") == "old");
  CHECK(text_of(folder / "protected") == "old");
  CHECK(names_in(folder / "closed") == std::vector<std::string>{"f"});
}

TEST_CASE("pipes and character devices are written to and never replaced, sockets are refused") {
  const auto folder = support::scratch("devices");
  const fs::path pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK_THAT(refused_write(pipe), ContainsSubstring("nobody reads"));
  const std::string text(300'000, 'p');  // more than a pipe holds
  std::string read;
  const auto read_all = [&](int fd) {
    char block[1 << 12];
    for (ssize_t n; (n = ::read(fd, block, sizeof block)) > 0;) read.append(block, static_cast<std::size_t>(n));
    ::close(fd);
  };
  {
    std::jthread reader([&] { read_all(::open(pipe.c_str(), O_RDONLY)); });
    write_file(pipe, text);
  }
  CHECK(read == text);
  CHECK(fs::is_fifo(pipe));
  // A reader that goes away: an error, and no signal, where the program did not ask for it, either.
  CHECK(in_child([&] {
          std::signal(SIGPIPE, SIG_DFL);
          std::jthread reader([&] { ::close(::open(pipe.c_str(), O_RDONLY)); });
          const std::string words = refused_write(pipe, text);
          return words.find("Broken pipe") == words.npos ? 1 : 0;
        }) == 0);
  // An open file of this process.
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  write_file("/dev/fd/" + std::to_string(ends[1]), "through a descriptor");
  fs::create_symlink("/dev/fd/" + std::to_string(ends[1]), folder / "out");
  write_file(folder / "out", ", twice");
  ::close(ends[1]);
  read.clear();
  read_all(ends[0]);
  CHECK(read == "through a descriptor, twice");

  write_file("/dev/null", "nothing");
  CHECK(fs::is_character_file("/dev/null"));
  fs::create_symlink("/dev/null", folder / "null");
  write_file(folder / "null", "nothing");
  CHECK(fs::is_symlink(folder / "null"));
  CHECK(fs::is_character_file("/dev/null"));
  if (fs::exists("/dev/full")) CHECK_THAT(refused_write("/dev/full"), ContainsSubstring("No space left"));

  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  (folder / "socket").string().copy(address.sun_path, sizeof address.sun_path - 1);
  if (socket >= 0 && ::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    CHECK_THAT(refused_write(folder / "socket"), ContainsSubstring("no regular file"));
    CHECK(fs::is_socket(folder / "socket"));
  }
  ::close(socket);
}

TEST_CASE("a file that would be too large is an error and no signal, and the old one stays") {
  const auto folder = support::scratch("too-large");
  write_file(folder / "f", "old");
  for (const auto handler : {SIG_DFL, SIG_IGN})
    CHECK(in_child([&] {
            std::signal(SIGXFSZ, handler);
            const rlimit limit{100'000, 100'000};
            ::setrlimit(RLIMIT_FSIZE, &limit);
            const std::string words = refused_write(folder / "f", std::string(200'000, 'x'));
            return words.find("File too large") == words.npos ? 1 : 0;
          }) == 0);
  CHECK(text_of(folder / "f") == "old");
  CHECK(names_in(folder) == std::vector<std::string>{"f"});
}

TEST_CASE("of several writers one remains, and readers see whole files only") {
  const auto folder = support::scratch("writers");
  const fs::path path = folder / "f";
  const auto content = [](char writer) {
    return std::string(static_cast<std::size_t>(writer) * 20'000, writer);
  };  // of different sizes, 2 MB
  const auto whole = [&](const std::string& text) { return !text.empty() && text == content(text[0]); };
  write_file(path, content('a'));
  std::vector<pid_t> writers;
  for (const char name : {'b', 'c'}) {
    writers.push_back(::fork());
    if (writers.back() == 0) {
      int failed = 0;
      const auto write = [&](char writer) {
        for (int i = 0; i < 15; ++i)
          if (!refused_write(path, content(writer)).empty()) ++failed;
      };
      {
        std::jthread second(write, static_cast<char>(name + 2));
        for (int i = 0; i < 15; ++i)
          if (!refused_write(path, content(name)).empty()) ::_exit(1);
      }
      ::_exit(failed == 0 ? 0 : 1);
    }
  }
  int reads = 0, broken = 0;
  const auto read_once = [&] {
    ++reads;
    try {
      if (!whole(text_of(path))) ++broken;
    } catch (const Error&) {
      ++broken;
    }
  };
  for (const pid_t writer : writers) {
    int status = 0;
    while (::waitpid(writer, &status, WNOHANG) == 0) read_once();
    CHECK(status == 0);
  }
  read_once();
  CHECK(reads > 1);
  CHECK(broken == 0);
  CHECK(names_in(folder) == std::vector<std::string>{"f"});
}

TEST_CASE("what a killed writer left is removed by the next, and what a living one is writing is not") {
  const auto folder = support::scratch("killed");
  const fs::path path = folder / "f";
  write_file(path, "old");
  // Killed in the midst of its writing: it has a temporary file, and the file is the old one.
  const std::string large(64 << 20, 'x');
  bool left = false;
  for (int attempt = 0; attempt < 50 && !left; ++attempt) {
    const pid_t writer = ::fork();
    if (writer == 0)
      for (;;) {
        write_file(path, large);
        write_file(path, "old");
      }
    for (int look = 0; look < 20'000 && names_in(folder).size() < 2; ++look) ::usleep(100);
    ::kill(writer, SIGKILL);
    ::waitpid(writer, nullptr, 0);
    left = names_in(folder).size() > 1;
  }
  REQUIRE(left);
  for (const std::string& name : names_in(folder)) CHECK_THAT(name, name == "f" ? EndsWith("f") : EndsWith(".tmp"));
  const std::string between = text_of(path);
  CHECK((between == "old" || between == large));
  // Another file's leftovers, or a user's file of a similar name, are not this one's.
  const std::vector<std::string> others = {".f.1-0123456789abcde.tmp", ".f.1-0123456789abcdefa.tmp",
                                           ".f.g.1-0123456789abcdef.tmp", ".f.tmp", "f.tmp"};
  for (const std::string& name : others) ::close(::open((folder / name).c_str(), O_CREAT | O_WRONLY, 0666));
  ::close(::open((folder / ".f.1-0123456789abcdef.tmp").c_str(), O_CREAT | O_WRONLY, 0666));
  write_file(path, "new");
  CHECK(text_of(path) == "new");
  for (const std::string& name : others) CHECK(fs::remove(folder / name));
  CHECK(names_in(folder) == std::vector<std::string>{"f"});

  // Those of several paths at once, for who does not write the same one again.
  const auto unfinished = [&](const char* name) {
    return folder / ("." + std::string(name) + ".1-0123456789abcdef.tmp");
  };
  for (const char* name : {"f", "f.g", "h"}) ::close(::open(unfinished(name).c_str(), O_CREAT | O_WRONLY, 0666));
  mamba::io::remove_unfinished(folder, [](std::string_view name) { return name.starts_with("f"); });
  CHECK(fs::remove(unfinished("h")));
  CHECK(names_in(folder) == std::vector<std::string>{"f"});
  CHECK_NOTHROW(mamba::io::remove_unfinished(folder / "missing", [](std::string_view) { return true; }));

  // A writer that lives, in this process and in another.
  mamba::io::detail::Temporary slow(path, 0600, path);
  mamba::io::remove_unfinished(folder, [](std::string_view) { return true; });
  write_file(path, "newer");
  CHECK(in_child([&] {
          write_file(path, "newest");
          return 0;
        }) == 0);
  CHECK(mamba::io::detail::write_all(slow.descriptor(), "slow") == 0);
  CHECK(slow.move_to(path) == 0);
  CHECK(text_of(path) == "slow");
  CHECK(names_in(folder) == std::vector<std::string>{"f"});
}

#endif
