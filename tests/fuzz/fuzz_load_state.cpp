// Bytes as the file of a state of two sequences: what is refused leaves the state as it was, what is accepted can be
// gone on from.
#include "models.hpp"
#include "mutator.hpp"
#include "target.hpp"

namespace {

template <class State>
bool same(const State& a, const State& b) {
  return a.positions() == b.positions() && fuzz::same_bytes(a.history_tensor().values, b.history_tensor().values) &&
         fuzz::same_bytes(a.state_tensor().values, b.state_tensor().values);
}

template <class Model>
void load_into(Model& model, const std::filesystem::path& path) {
  auto state = model.initial_state(2);
  const std::int32_t tokens[] = {1, 2};
  (void)model.step(tokens, state);
  const auto before = state;
  if (!fuzz::accepted([&] { (void)mamba::load(state, path); })) {
    fuzz::must(same(state, before), "a file that is refused changes nothing");
    return;
  }
  for (const int position : state.positions()) fuzz::must(position >= 0, "a position is not negative");
  try {
    (void)model.step(tokens, state);
  } catch (const mamba::Error& error) {
    fuzz::must(error.kind() == mamba::ErrorKind::invalid_argument, "only a state at its end cannot go on");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::InputFile file;
  static auto classifier = fuzz::classifier(1);
  static auto language_model = fuzz::language_model(1);
  const auto& path = file.holding(bytes, size);
  load_into(classifier, path);
  load_into(language_model, path);
  return 0;
}
