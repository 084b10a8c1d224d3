// MPI's processes as a group: mpiexec -n N mamba_mpi_test. Exits with 0 where all is as it must be.
#include <cstdio>
#include <exception>
#include <numeric>
#include <string>
#include <vector>

#include <mamba/composite.hpp>
#include <mamba/parallel/mpi.hpp>

using namespace mamba;

namespace {

inline constexpr Config tiny_config{.vocab_size = 100, .d_model = 8, .d_state = 4};
using Classifier = MambaForComposite<tiny_config>;

// The bytes of all parameters after a few steps.
std::vector<float> trained(Group& group) {
  const task::CompositeFunction task({.seed = 3, .train_samples = 150, .eval_samples = 20});
  Classifier model({.n_layers = 2, .gamma = 1.0, .seed = 3, .threads = 1});
  Trainer trainer(model, task,
                  {.batch_size = 64, .schedule = {.lr = 1e-2, .warmup = 1, .total = 2}, .seed = 3, .shards = 8}, group);
  while (!trainer.finished()) trainer.step();
  return {model.engine().parameters(), model.engine().parameters() + model.engine().size()};
}

void check_group(Group& group) {
  const auto r = static_cast<std::size_t>(group.rank()), size = static_cast<std::size_t>(group.size());
  // More than what a message without a copy takes, of another size for each pair.
  std::vector<std::vector<int>> out, in;
  std::vector<Outgoing> send;
  std::vector<Incoming> receive;
  const auto count = [](std::size_t from, std::size_t to) { return 100'000 * from + 70'001 * to; };
  for (std::size_t other = 0; other < size; ++other) {
    out.emplace_back(count(r, other)), in.emplace_back(count(other, r));
    std::iota(out.back().begin(), out.back().end(), static_cast<int>(1000 * r + other));
  }
  for (std::size_t other = 0; other < size; ++other) {
    if (other == r) continue;
    send.push_back({static_cast<int>(other), std::as_bytes(std::span(out[other]))});
    receive.push_back({static_cast<int>(other), std::as_writable_bytes(std::span(in[other]))});
  }
  group.transfer(send, receive);
  for (std::size_t other = 0; other < size; ++other)
    for (std::size_t i = 0; other != r && i < in[other].size(); ++i)
      require(in[other][i] == static_cast<int>(1000 * other + r + i), "element ", i, " from ", other, " is ",
              in[other][i]);
  const std::vector<int> ranks = gather(group, group.rank());
  for (std::size_t other = 0; other < size; ++other) require(ranks[other] == static_cast<int>(other), "a wrong rank");
  require(from_first(group, r == 0 ? "first" : "other") == "first", "the first one's words do not arrive");
  bool thrown = false;
  try {
    together(group, [&] { require(r + 1 < size, "the last one fails"); });
  } catch (const Error& error) {
    thrown = error.what() == std::string("the last one fails");
  }
  require(thrown, "an error does not arrive");
}

}  // namespace

int main() {
  int given = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given);
  int code = 0;
  try {
    MpiGroup group(MPI_COMM_WORLD, {.patience_seconds = 30}), another;
    check_group(group), check_group(another);
    Alone alone;
    require(trained(group) == trained(alone), "the parameters are other ones than those of one process");
    // Half of the processes, while the others train by themselves.
    MPI_Comm half;
    MPI_Comm_split(MPI_COMM_WORLD, group.rank() % 2, group.rank(), &half);
    {
      MpiGroup of_half(half);
      if (group.rank() % 2 == 0 && (of_half.size() & (of_half.size() - 1)) == 0)
        require(trained(of_half) == trained(alone), "half of the processes train otherwise");
    }
    MPI_Comm_free(&half);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    code = 1;
  }
  if (code != 0) MPI_Abort(MPI_COMM_WORLD, code);
  MPI_Finalize();
  return code;
}
