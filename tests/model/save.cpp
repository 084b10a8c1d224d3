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
void write_renamed(const StateDict<float>& dict, const std::filesystem::path& path, const std::string& prefix,
                   bool with_head, float head_error = 0) {
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
  CHECK_THROWS_WITH(load(model, folder / "f.safetensors"),
                    ContainsSubstring("lm_head.weight differs from the embedding"));
}

TEST_CASE(
    "a head of its own goes into a file and comes back; models of the other head refuse it and stay as they were") {
  const auto folder = support::scratch("untied");
  MambaForComposite<tiny_config, UntiedHead> model({.n_layers = 2, .seed = 1}), other({.n_layers = 2, .seed = 2});
  Classifier tied({.n_layers = 2, .seed = 3});
  save(model, folder / "untied.safetensors");
  save(tied, folder / "tied.safetensors");
  load(other, folder / "untied.safetensors");
  CHECK(all_values(model.state_dict()) == all_values(other.state_dict()));
  const auto own = all_values(tied.state_dict()), others = all_values(other.state_dict());
  CHECK_THROWS_WITH(load(tied, folder / "untied.safetensors"),
                    ContainsSubstring("the file's model has head = \"untied\", this one \"tied\""));
  CHECK_THROWS_WITH(load(other, folder / "tied.safetensors"),
                    ContainsSubstring("the file's model has head = \"tied\", this one \"untied\""));
  // Without metadata the tensors tell.
  io::SafetensorsWriter plain, without;
  for (const auto& [name, tensor] : model.state_dict()) plain.add(name, tensor);
  for (const auto& [name, tensor] : tied.state_dict()) without.add(name, tensor);
  plain.write(folder / "plain.safetensors", {}), without.write(folder / "without.safetensors", {});
  CHECK_THROWS_WITH(load(tied, folder / "plain.safetensors"),
                    ContainsSubstring("lm_head.weight differs from the embedding: the model's head is tied to it"));
  CHECK_THROWS_WITH(load(other, folder / "without.safetensors"),
                    ContainsSubstring("the parameter lm_head.weight is missing"));
  CHECK_THROWS_AS(tied.load_state_dict(model.state_dict()), Error);
  CHECK_THROWS_AS(other.load_state_dict(tied.state_dict()), Error);
  CHECK(all_values(tied.state_dict()) == own);
  CHECK(all_values(other.state_dict()) == others);
  MambaForComposite<tiny_config, UntiedHead> third({.n_layers = 2, .seed = 4});
  load(third, folder / "plain.safetensors");
  CHECK(all_values(model.state_dict()) == all_values(third.state_dict()));
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
  // /dev/full takes nothing: a full disk. (That the old file stays where one cannot be replaced: tests/io/file.cpp.)
  CHECK_THROWS_WITH(save(model, "/dev/full"), ContainsSubstring("No space left"));
#endif
}

TEST_CASE("numbers that are not finite are counted, and refused on request") {
  const auto folder = support::scratch("nonfinite");
  Classifier model({.n_layers = 2, .seed = 1}), other({.n_layers = 2, .seed = 2});
  save(model, folder / "good.safetensors");
  CHECK(load(other, folder / "good.safetensors", {.refuse_nonfinite = true}).count == 0);
  auto dict = model.state_dict();
  dict.at("backbone.layers.1.mixer.D").values[2] = NAN;
  dict.at("backbone.layers.1.mixer.D").values[3] = -INFINITY;
  model.load_state_dict(dict);
  save(model, folder / "bad.safetensors");
  const auto before = all_values(other.state_dict());
  CHECK_THROWS_WITH(load(other, folder / "bad.safetensors", {.refuse_nonfinite = true}),
                    ContainsSubstring("bad.safetensors") && ContainsSubstring("2 of its numbers") &&
                        ContainsSubstring("layers.1.mixer.D"));
  CHECK(all_values(other.state_dict()) == before);
  const Nonfinite found = load(other, folder / "bad.safetensors");
  CHECK(found.count == 2);
  CHECK(found.first == "backbone.layers.1.mixer.D");
}

TEST_CASE("a head is compared by its bytes, and its error names what is wrong") {
  const auto folder = support::scratch("head");
  Classifier model({.n_layers = 1, .seed = 1}), other({.n_layers = 1, .seed = 2});
  auto dict = model.state_dict();
  dict.at("backbone.embedding.weight").values[5] = NAN;
  write_renamed(dict, folder / "f.safetensors", "", true);
  CHECK(load(other, folder / "f.safetensors").count == 1);
  io::SafetensorsWriter writer;
  writer.add("lm_head.weight", dict.at("backbone.embedding.weight"));
  writer.write(folder / "head.safetensors", {});
  CHECK_THROWS_WITH(load(other, folder / "head.safetensors"),
                    ContainsSubstring("backbone.embedding.weight is missing"));
}

TEST_CASE("a file of any name is named by its errors, once") {
  const auto folder = support::scratch("names");
  save(MambaForComposite<other_config>({.n_layers = 2}), folder / "model");
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder);
  Classifier model({.n_layers = 2});
  CHECK_THROWS_WITH(load(model, "model"), "model: the file's model has d_state = 9, this one 8");
  CHECK_THROWS_WITH(
      check_tensors<Classifier>(io::SafetensorsFile::read("model"), 3),
      ContainsSubstring("model: backbone.layers.0.mixer.A_log has the shape (32, 9); the model's is (32, 8)"));
  std::filesystem::current_path(before);
}

TEST_CASE("metadata of other programs under our keys are not ours") {
  const auto folder = support::scratch("metadata");
  Classifier model({.n_layers = 2, .seed = 1});
  for (const char* config : {"mamba-130m", "[1, 2]", "3", "", R"({"hidden_size": 16})"}) {
    INFO(config);
    io::SafetensorsWriter writer;
    for (const auto& [name, tensor] : model.state_dict()) writer.add(name, tensor);
    writer.write(folder / "f.safetensors", {{"config", config}, {"variant", config}});
    Classifier other({.n_layers = 2, .seed = 2});
    load(other, folder / "f.safetensors");
    CHECK(all_values(other.state_dict()) == all_values(model.state_dict()));
  }
}

TEST_CASE("what a file says of its layers is checked before a model is built") {
  const auto folder = support::scratch("layers");
  const auto path = folder / "f.safetensors";
  save(Classifier({.n_layers = 3}), path);
  CHECK(layers_in(io::SafetensorsFile::read(path)) == 3);
  check_tensors<Classifier>(io::SafetensorsFile::read(path), 3);
  CHECK_THROWS_WITH(check_tensors<Classifier>(io::SafetensorsFile::read(path), 4),
                    ContainsSubstring("layers.3.norm.weight is missing"));
  CHECK_THROWS_WITH(check_tensors<MambaForComposite<other_config>>(io::SafetensorsFile::read(path), 3),
                    ContainsSubstring("A_log has the shape (32, 8); the model's is (32, 9)"));
  io::SafetensorsWriter many;
  for (int layer = 0; layer < 1000; ++layer)
    many.add("backbone.layers." + std::to_string(layer) + ".norm.weight", HostTensor<float>{{0}, {}});
  many.write(path, {});
  CHECK_THROWS_AS(
      check_tensors<Classifier>(io::SafetensorsFile::read(path), layers_in(io::SafetensorsFile::read(path))), Error);
  io::SafetensorsWriter gap;
  for (const int layer : {0, 2})
    gap.add("backbone.layers." + std::to_string(layer) + ".norm.weight",
            HostTensor<float>{{16}, std::vector<float>(16)});
  gap.write(path, {});
  CHECK_THROWS_WITH(layers_in(io::SafetensorsFile::read(path)), ContainsSubstring("none with the number 1"));
}

TEST_CASE("a good model after a bad one is as if the bad one had never been") {
  const auto ids = support::random_tokens(6 * 5, 10, 1), labels = support::random_tokens(6, 10, 2);
  constexpr static Config odd{.vocab_size = 10, .d_model = 18, .d_state = 5};
  for (const double lr : {1e-3, 1e30, 1e38, 1e300}) {
    INFO("rate " << lr);
    MambaForComposite<odd> fresh({.n_layers = 2, .seed = 1}), used({.n_layers = 2, .seed = 1});
    const auto good = fresh.state_dict();
    AdamW optimizer(used, {.lr = lr, .eps = 0, .weight_decay = lr < 1 ? 0.01 : 1e300});
    for (int step = 0; step < 3; ++step) used.loss_and_gradients(ids, labels), optimizer.step();
    used.load_state_dict(good);
    CHECK(support::values(used(ids, 6)) == support::values(fresh(ids, 6)));
    CHECK(used.loss_and_gradients(ids, labels) == fresh.loss_and_gradients(ids, labels));
    for (const auto& [name, tensor] : fresh.gradient_dict())
      CHECK(used.gradient_dict().at(name).values == tensor.values);
  }
}
