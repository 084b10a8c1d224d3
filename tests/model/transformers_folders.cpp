// write FOLDER: saves small models as folders of transformers, each with what this library computes beside it
// (expected.safetensors: ids (2, 19), logits (2, 19, vocabulary), greedy, a prompt of 5 tokens and what follows).
// Of Mamba-2 with norms by groups, as transformers has them from 5.23 on.
// check FOLDER: loads those that transformers has written there, with the same beside it, and compares; ends with 1 and
// words where that fails.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <mamba/generate.hpp>

namespace fs = std::filesystem;

namespace {

inline constexpr mamba::Config config{.vocab_size = 96, .d_model = 32, .d_state = 8},
    odd_config{.vocab_size = 27, .d_model = 24, .d_state = 5, .d_conv = 3};
constexpr int layers = 2, batch = 2, length = 19, prompt = 5, more = 12;

using Mamba1 = mamba::MambaLMHeadModel<config>;
using Untied1 = mamba::MambaLMHeadModel<config, mamba::UntiedHead>;
using Mamba2 = mamba::MambaLMHeadModel<config, mamba::Mamba2<16, 2>, mamba::UntiedHead>;
using Tied2 = mamba::MambaLMHeadModel<config, mamba::Mamba2<16, 1>>;

template <class Model>
void write(const fs::path& folder, const mamba::SaveFolderOptions& options = {}) {
  Model model({.n_layers = layers, .seed = 5});
  mamba::save_folder(model, folder, options);
  // What was written, which in 16 bits is not all of what was saved.
  (void)mamba::load(model, folder);
  std::vector<std::int32_t> ids(batch * length);
  for (std::size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<std::int32_t>((i * 31 + i * i * 7 + 3) % Model::config.vocab_size);
  const auto logits = model.logits(ids, batch);
  std::vector<typename Model::Scalar> values;  // without what pads the vocabulary
  for (std::ptrdiff_t row = 0; row < logits.rows(); ++row)
    values.insert(values.end(), &logits(row, 0), &logits(row, 0) + Model::config.vocab_size);
  std::vector<std::int32_t> greedy(ids.begin(), ids.begin() + prompt);
  for (const std::int32_t token : mamba::generate(model, greedy, {.max_new_tokens = more})) greedy.push_back(token);
  mamba::io::SafetensorsWriter writer;
  writer.add("input_ids", mamba::HostTensor<std::int32_t>{{batch, length}, ids});
  writer.add("logits", mamba::HostTensor<typename Model::Scalar>{{batch, length, Model::config.vocab_size}, values});
  writer.add("greedy", mamba::HostTensor<std::int32_t>{{static_cast<std::int64_t>(greedy.size())}, greedy});
  writer.write(folder / "expected.safetensors", {});
}

template <class Model>
bool same(const fs::path& folder) {
  Model model({.n_layers = layers, .seed = 5, .draw = false});
  if (mamba::load(model, folder)) return std::printf("%s: not finite\n", folder.c_str()), false;
  const auto expected = mamba::io::SafetensorsFile::read(folder / "expected.safetensors");
  const auto ids = expected.tensor<std::int32_t>("input_ids").values,
             greedy = expected.tensor<std::int32_t>("greedy").values;
  const auto theirs = expected.tensor<double>("logits");
  const auto logits = model.logits(ids, batch);
  double difference = 0, largest = 0;
  const auto columns = static_cast<std::size_t>(theirs.shape.back());  // without what pads
  for (std::size_t row = 0; row < ids.size(); ++row)
    for (std::size_t v = 0; v < columns; ++v) {
      const double other = theirs.values[row * columns + v];
      const auto own = static_cast<double>(logits(static_cast<std::ptrdiff_t>(row), static_cast<std::ptrdiff_t>(v)));
      difference = std::max(difference, std::abs(own - other)), largest = std::max(largest, std::abs(other));
    }
  std::vector<std::int32_t> own(greedy.begin(), greedy.begin() + prompt);
  for (const std::int32_t token :
       mamba::generate(model, own, {.max_new_tokens = static_cast<int>(greedy.size()) - prompt}))
    own.push_back(token);
  std::printf("%s: logits up to %.3g, off by %.2g; %s continuation\n", folder.filename().c_str(), largest, difference,
              own == greedy ? "the same" : "ANOTHER");
  return difference < 1e-5 * largest && own == greedy;
}

int write_all(const fs::path& root) {
  using mamba::FolderPrecision;
  write<Mamba1>(root / "mamba");
  write<Mamba1>(root / "mamba_sharded", {.shard_bytes = 20'000});
  write<Mamba1>(root / "mamba_bf16", {.precision = FolderPrecision::bfloat16});
  write<Untied1>(root / "mamba_untied", {.bos_token = 1, .eos_token = 2, .pad_token = 3});
  write<mamba::MambaLMHeadModel<config, double>>(root / "mamba_f64");
  write<mamba::MambaLMHeadModel<odd_config>>(root / "mamba_odd");
  write<Mamba2>(root / "mamba2");
  write<Mamba2>(root / "mamba2_sharded", {.shard_bytes = 20'000});
  write<Mamba2>(root / "mamba2_bf16", {.precision = FolderPrecision::bfloat16});
  write<Tied2>(root / "mamba2_tied");
  write<mamba::MambaLMHeadModel<odd_config, mamba::Mamba2<>>>(root / "mamba2_odd");
  return 0;
}

int check_all(const fs::path& root) {
  bool all = true;
  for (const char* name : {"mamba", "mamba_sharded", "mamba_bf16", "mamba_f16"}) all = same<Mamba1>(root / name) && all;
  all = same<Untied1>(root / "mamba_untied") && all;
  for (const char* name : {"mamba2", "mamba2_sharded", "mamba2_bf16"}) all = same<Mamba2>(root / name) && all;
  all = same<Tied2>(root / "mamba2_tied") && all;
  return same<mamba::MambaLMHeadModel<odd_config>>(root / "mamba_odd") && all ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    return std::string_view(argv[1]) == "write" ? write_all(argv[2]) : check_all(argv[2]);
  } catch (const mamba::Error& error) {
    return std::printf("%s\n", error.what()), 1;
  }
}
