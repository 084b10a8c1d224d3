// Bytes as a model's file, for two models: what is refused leaves the model as it was, what is accepted can be used and
// saved.
#include "models.hpp"
#include "mutator.hpp"
#include "target.hpp"

namespace {

template <class Model>
void load_into(Model& model, const std::filesystem::path& path) {
  const auto before = model.state_dict();
  if (!fuzz::accepted([&] { (void)mamba::load(model, path); })) {
    fuzz::must(fuzz::same_dict(model.state_dict(), before), "a file that is refused changes nothing");
    return;
  }
  const std::int32_t ids[] = {1, 2, 3};
  (void)model.logits(ids, 1);
  const auto loaded = model.state_dict();
  model.load_state_dict(loaded);
  fuzz::must(fuzz::same_dict(model.state_dict(), loaded), "what is loaded is what state_dict() says");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::InputFile file;
  static auto classifier = fuzz::classifier(1);
  static auto language_model = fuzz::language_model(1);
  const auto& path = file.holding(bytes, size);
  load_into(classifier, path);
  load_into(language_model, path);
  (void)fuzz::accepted([&] { (void)mamba::layers_in(mamba::io::SafetensorsFile::read(path)); });
  return 0;
}
