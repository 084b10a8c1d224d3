// Bytes as a training's checkpoint: what is refused leaves the training as it was, what is accepted can be gone on
// from.
#include "models.hpp"
#include "mutator.hpp"
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const fuzz::Task task;
  auto model = fuzz::classifier(3);
  mamba::Trainer trainer(model, task, fuzz::training);
  trainer.step();
  const auto parameters = model.state_dict();
  const auto mean = trainer.optimizer().mean_dict(), square = trainer.optimizer().square_dict();
  const double loss_sum = trainer.loss_sum();
  const auto loss_count = trainer.loss_count();
  const bool loaded = fuzz::accepted([&] {
    const auto file = mamba::io::SafetensorsFile::parse({bytes, bytes + size}, "input");
    (void)fuzz::accepted([&] { (void)mamba::read_checkpoint_notes(file); });
    mamba::load_checkpoint(trainer, file);
  });
  if (!loaded) {
    fuzz::must(fuzz::same_dict(model.state_dict(), parameters), "a file that is refused does not change the model");
    fuzz::must(fuzz::same_dict(trainer.optimizer().mean_dict(), mean) &&
                   fuzz::same_dict(trainer.optimizer().square_dict(), square) && trainer.steps() == 1 &&
                   trainer.loss_sum() == loss_sum && trainer.loss_count() == loss_count,
               "a file that is refused does not change the training");
    return 0;
  }
  fuzz::must(trainer.steps() >= 0 && trainer.loss_count() >= 0, "no count is negative");
  try {
    if (!trainer.finished()) trainer.step();
    (void)trainer.take_mean_loss();
  } catch (const mamba::Error& error) {
    fuzz::must(error.kind() == mamba::ErrorKind::diverged, "a training that goes on ends with a divergence at most");
  }
  return 0;
}
