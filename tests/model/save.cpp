#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>

#include <mamba/composite.hpp>

#include "support/reference.hpp"

using namespace mamba;
using Catch::Matchers::ContainsSubstring;

namespace {

inline constexpr Config tiny_config{.vocab_size = 10, .d_model = 16, .d_state = 8};
inline constexpr Config other_config{.vocab_size = 10, .d_model = 16, .d_state = 9};
using Classifier = MambaForComposite<tiny_config>;

std::vector<float> all_values(const StateDict<float>& dict) {
  std::vector<float> all;
  for (const auto& [name, tensor] : dict) all.insert(all.end(), tensor.values.begin(), tensor.values.end());
  return all;
}

// The tensors under other names, and more of them, as other programs write files.
void write_renamed(const StateDict<float>& dict, const std::filesystem::path& path, const std::string& prefix, bool with_head, float head_error = 0) {
  io::SafetensorsWriter writer;
  for (const auto& [name, tensor] : dict) writer.add(prefix + name, tensor);
  if (with_head) {
    auto head = dict.at("backbone.embedding.weight");
    head.values[3] += head_error;
    writer.add(prefix + "lm_head.weight", head);
  }
  writer.write(path, {});
}

}  // namespace

TEST_CASE("a saved model loads into another, of another scalar too") {
  const auto folder = support::scratch("save");
  Classifier model({.n_layers = 2, .gamma = 1.0, .seed = 1}), other({.n_layers = 2, .seed = 2});
  save(model, folder / "m.safetensors");
  CHECK(all_values(model.state_dict()) != all_values(other.state_dict()));
  load(other, folder / "m.safetensors");
  CHECK(all_values(model.state_dict()) == all_values(other.state_dict()));

  MambaForComposite<tiny_config, double> wide({.n_layers = 2, .seed = 2});
  load(wide, folder / "m.safetensors");
  save(wide, folder / "wide.safetensors");
  load(other, folder / "wide.safetensors");
  CHECK(all_values(model.state_dict()) == all_values(other.state_dict()));
  MambaLMHeadModel<tiny_config> language_model({.n_layers = 2, .seed = 2});
  load(language_model, folder / "m.safetensors");
  CHECK(all_values(model.state_dict()) == all_values(language_model.state_dict()));
  CHECK(layers_in(io::SafetensorsFile::read(folder / "m.safetensors")) == 2);
}

TEST_CASE("files of other programs: a wrapper's prefix, the tied head, no metadata") {
  const auto folder = support::scratch("foreign");
  Classifier model({.n_layers = 2, .seed = 1});
  for (const bool with_head : {false, true})
    for (const char* prefix : {"", "backbone."}) {
      write_renamed(model.state_dict(), folder / "f.safetensors", prefix, with_head);
      Classifier other({.n_layers = 2, .seed = 2});
      load(other, folder / "f.safetensors");
      CHECK(all_values(model.state_dict()) == all_values(other.state_dict()));
      CHECK(layers_in(io::SafetensorsFile::read(folder / "f.safetensors")) == 2);
    }
  write_renamed(model.state_dict(), folder / "f.safetensors", "", true, 1.0F);
  CHECK_THROWS_WITH(load(model, folder / "f.safetensors"), ContainsSubstring("lm_head.weight differs from the embedding"));
}

TEST_CASE("a file of another model is refused with the difference named, and nothing changes") {
  const auto folder = support::scratch("refuse");
  Classifier model({.n_layers = 2, .seed = 1});
  const auto before = all_values(model.state_dict());
  const auto refused = [&](const char* words) {
    try {
      load(model, folder / "f.safetensors");
      FAIL("was not refused");
    } catch (const Error& error) {
      CHECK(error.kind() == ErrorKind::bad_file);
      CHECK_THAT(error.what(), ContainsSubstring(words) && ContainsSubstring("f.safetensors"));
    }
    CHECK(all_values(model.state_dict()) == before);
  };
  refused("cannot open");
  save(MambaForComposite<other_config>({.n_layers = 2}), folder / "f.safetensors");
  refused("the file's model has d_state = 9, this one 8");
  save(Classifier({.n_layers = 3}), folder / "f.safetensors");
  refused("the file's model has n_layers = 3, this one 2");
  save(MambaForComposite<tiny_config, OnesConv>({.n_layers = 2}), folder / "f.safetensors");
  refused("the file's model has conv = \"ones\", this one \"learned\"");
  write_renamed(MambaForComposite<other_config>({.n_layers = 2}).state_dict(), folder / "f.safetensors", "", false);
  refused("has the shape (32, 9); the model's is (32, 8)");
  io::write_file(folder / "f.safetensors", "not a model");
  refused("is not a valid safetensors file");
}

TEST_CASE("what cannot be written is an error, and the old file stays") {
  const auto folder = support::scratch("write");
  Classifier model({.n_layers = 1, .seed = 1});
  try {
    save(model, folder / "missing" / "m.safetensors");
    FAIL("was not refused");
  } catch (const Error& error) {
    CHECK(error.kind() == ErrorKind::cannot_write);
  }
#if defined(__linux__)
  // /dev/full takes nothing: a full disk. Here through the temporary file's name.
  save(model, folder / "m.safetensors");
  std::filesystem::create_symlink("/dev/full", folder / "m.safetensors.tmp");
  CHECK_THROWS_WITH(save(model, folder / "m.safetensors"), ContainsSubstring("No space left"));
  Classifier other({.n_layers = 1, .seed = 2});
  load(other, folder / "m.safetensors");
  CHECK(all_values(other.state_dict()) == all_values(model.state_dict()));
#endif
}
