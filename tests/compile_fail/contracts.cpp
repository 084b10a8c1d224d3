// What is written against the library's contracts (network/backend.hpp, engine/engine.hpp, train/task.hpp). With no
// CASE_ defined this compiles; each CASE_ lacks something, and must say what.
#include <mamba/composite.hpp>

using namespace mamba;

inline constexpr Config config{.vocab_size = 10, .d_model = 16, .d_state = 8};

// One core's primitives, but for what is deleted.
struct Backend : eigen::Core {
#if defined(CASE_backend_fuses_nothing)
  static constexpr bool fuses_steps = true;
#endif
};
#if defined(CASE_backend_without_primitive)
template <class T, int C>
void zero(Backend&, Rows<T, C>) = delete;
#elif defined(CASE_backend_without_scan)
template <class T, int E, int N, class Blocked>
void selective_scan(Backend&, Rows<T, E>, T*, T*, Rows<const T, E>, Rows<const T, E>, Rows<const T, N>,
                    Rows<const T, N>, Sequences, Weight<T, E, N>, Weight<T, 1, E>, Blocked) = delete;
#endif
static_assert(network::check_backend<Resolve<config>, Backend>());
static_assert(network::check_backend<Resolve<config, Mamba2<>, double>, Backend>());

using A = Resolve<config>;
struct Own : Engine<A> {
  using Engine<A>::Engine;
#if defined(CASE_engine_without_arenas)
  Arena make_arena() const = delete;
#elif defined(CASE_engine_without_forward)
  void visited_logits() = delete;
#elif defined(CASE_engine_without_backward)
  template <class Visitor, class Loss>
  double visited_loss_and_gradients(const Batch&, Readout, Visitor&, Loss&&) = delete;
#endif
};
static_assert(check_engine<Own, A>());

struct Task {
#if !defined(CASE_task_without_length)
  static constexpr int length = 4;
#endif
#if defined(CASE_task_without_vocabulary)
  static constexpr bool draws_on_device = true;
#endif
  std::int64_t train_samples() const { return 10; }
#if !defined(CASE_task_without_samples)
  std::int32_t train_sample(std::int64_t, std::int32_t*) const { return 0; }
#endif
};

int main() {
  MambaForComposite<config> model({.n_layers = 1});
  const Task task;
  Trainer trainer(model, task, {});
}
