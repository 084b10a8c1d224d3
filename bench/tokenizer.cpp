// Text to tokens and back, MB/s on one core: bench_tokenizer [--tokenizer FILE] [--text FILE] and Google Benchmark's
// options. Without them the reference tokenizer of the tests, over this project's documents.
#include <benchmark/benchmark.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <mamba/io/file.hpp>
#include <mamba/text/tokenizer.hpp>

namespace {

using mamba::text::Tokenizer;

std::string read(const std::filesystem::path& path) {
  const std::vector<char> bytes = mamba::io::read_file(path);
  return {bytes.data(), bytes.size()};
}

// The documents, over and over: 8 MB.
std::string documents() {
  std::string once, text;
  for (const char* name : {"README.md", "include/mamba/README.md", "include/mamba/SPECIFICATION.md", "bench/README.md"})
    once += read(std::filesystem::path(MAMBA_SOURCE) / name);
  while (text.size() < 8'000'000) text += once;
  return text;
}

void count(benchmark::State& state, std::size_t bytes, std::size_t tokens) {
  const auto all = static_cast<double>(state.iterations());
  state.counters["MB/s"] = benchmark::Counter(all * static_cast<double>(bytes) / 1e6, benchmark::Counter::kIsRate);
  state.counters["bytes/token"] = static_cast<double>(bytes) / static_cast<double>(tokens);
}

}  // namespace

int main(int argc, char** argv) try {
  std::filesystem::path tokenizer_file = MAMBA_SOURCE "/tests/data/tokenizer_neox_tiny";
  std::string text;
  std::vector<char*> others;
  for (int i = 0; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--tokenizer" && i + 1 < argc) tokenizer_file = argv[++i];
    else if (argument == "--text" && i + 1 < argc) text = read(argv[++i]);
    else others.push_back(argv[i]);
  }
  int count_of_others = static_cast<int>(others.size());
  benchmark::Initialize(&count_of_others, others.data());
  if (benchmark::ReportUnrecognizedArguments(count_of_others, others.data())) return 1;
  if (text.empty()) text = documents();
  const Tokenizer tokenizer = Tokenizer::from_file(tokenizer_file);
  const auto ids = tokenizer.encode(text);
  benchmark::RegisterBenchmark("encode", [&](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(tokenizer.encode(text).data());
    count(state, text.size(), ids.size());
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("decode", [&](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(ids).data());
    count(state, text.size(), ids.size());
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("load", [&](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::from_file(tokenizer_file).vocab_size());
  })->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
} catch (const mamba::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 3;
}
