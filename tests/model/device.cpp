// Where a model runs, as users write it and as programs decide it.
#include <unistd.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdio>
#include <string>
#include <type_traits>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;
using Kind = DeviceChoice::Kind;

namespace {

// What f() writes on stderr.
template <class F>
std::string on_stderr(F&& f) {
  const auto path = support::scratch("device") / "stderr.txt";
  std::fflush(stderr);
  const int before = dup(STDERR_FILENO);
  std::FILE* const file = std::fopen(path.c_str(), "w");
  dup2(fileno(file), STDERR_FILENO);
  f();
  std::fflush(stderr);
  dup2(before, STDERR_FILENO);
  close(before);
  std::fclose(file);
  const auto bytes = io::read_file(path);
  return {bytes.begin(), bytes.end()};
}

ErrorKind kind_of(auto&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.kind();
  }
  FAIL("nothing was thrown");
  return {};
}

}  // namespace

TEST_CASE("a device is auto, cpu, cuda or cuda:N") {
  const auto check = [](const char* text, Kind kind, int index) {
    INFO(text);
    const DeviceChoice choice = DeviceChoice::parse(text);
    CHECK(choice.kind == kind);
    CHECK(choice.index == index);
  };
  check("auto", Kind::automatic, 0);
  check("cpu", Kind::cpu, 0);
  check("cuda", Kind::cuda, 0);
  check("cuda:0", Kind::cuda, 0);
  check("cuda:12", Kind::cuda, 12);
  check("cuda:2147483647", Kind::cuda, 2147483647);
  for (const char* text :
       {"",         "gpu",     "cuda:",   "cuda:-1", "cuda:x", "cuda:1x",  "cuda:99999999999", "cuda:2147483648",
        "cuda:+1",  "cuda: 1", "cuda:1 ", " cuda",   "cuda ",  "cuda1",    "cuda:0:1",         "cuda:0x1",
        "cuda:1.0", "CUDA",    "Cpu",     "cpu:0",   "auto:0", "automatic"}) {
    INFO('"' << text << '"');
    CHECK(kind_of([&] { DeviceChoice::parse(text); }) == ErrorKind::invalid_argument);
    CHECK_THROWS_WITH(DeviceChoice::parse(text), std::string("a device is auto, cpu, cuda or cuda:N; given ") + text);
  }
}

TEST_CASE(
    "a GPU that has a problem is used by nobody, and whoever asks for it by name is told; the library itself writes "
    "nothing") {
  const std::string problem = "CUDA: no device";
  const auto use = [](const char* text, const std::string& p) { return DeviceChoice::parse(text).use_gpu(p); };
  const std::string said = on_stderr([&] {
    CHECK_FALSE(use("cpu", ""));
    CHECK_FALSE(use("cpu", problem));
    CHECK(use("cuda", ""));
    CHECK(use("cuda:3", ""));
    CHECK(use("auto", ""));
    CHECK(kind_of([&] { use("cuda", problem); }) == ErrorKind::device_failed);
    CHECK(kind_of([&] { use("cuda:3", problem); }) == ErrorKind::device_failed);
    CHECK_THROWS_WITH(use("cuda", problem), problem);
  });
  CHECK(said.empty());
  CHECK(on_stderr([&] { CHECK_FALSE(use("auto", problem)); }).empty());
}

TEST_CASE("a plain C++ source's models run on the CPU") {
  static constexpr Config config{.vocab_size = 11, .d_model = 8, .d_state = 4};
  CHECK_THAT(gpu_problem(), ContainsSubstring("built without"));
  CHECK_THAT(gpu_problem(7), ContainsSubstring("built without"));
  ModelOptions options{.n_layers = 1, .seed = 1, .device = 5};
  int calls = 0;
  const auto rows = [&]<class Backend>() {
    CHECK(std::is_same_v<Backend, Cpu>);
    ++calls;
    MambaForComposite<config, Backend> model(options);
    return model(support::random_tokens(3 * 8, 11, 1), 3).rows();
  };
  CHECK(on_stderr([&] { CHECK(on_device(DeviceChoice::parse("auto"), options, rows) == 3); }).empty());
  CHECK(on_stderr([&] { CHECK(on_device(DeviceChoice::parse("cpu"), options, rows) == 3); }).empty());
  CHECK(calls == 2);
  for (const char* text : {"cuda", "cuda:1"}) {
    CHECK(kind_of([&] { on_device(DeviceChoice::parse(text), options, rows); }) == ErrorKind::device_failed);
    CHECK_THROWS_WITH(on_device(DeviceChoice::parse(text), options, rows), ContainsSubstring("built without"));
  }
  CHECK(calls == 2);
  CHECK(options.device == 5);  // chosen for no GPU: left as it was
  // What the function returns is handed through, references too.
  int number = 1;
  int& same = on_device(DeviceChoice::parse("cpu"), options, [&]<class Backend>() -> int& { return number; });
  CHECK(&same == &number);
}
