// Bytes as JSON: what is read is written, and read again, to the same text; what is passed over is what can be read.
#include <mamba/io/json.hpp>

#include "target.hpp"

using mamba::io::Json;

namespace {

// Asks every value for everything that it might be.
void ask(const Json& json) {
  (void)fuzz::accepted([&] { (void)json.number(); });
  const bool wide = fuzz::accepted([&] { (void)json.integer<std::int64_t>(); }),
             narrow = fuzz::accepted([&] { (void)json.integer<int>(); });
  fuzz::must(wide || !narrow, "what int holds 64 bits hold");
  (void)fuzz::accepted([&] { (void)json.integer<std::uint64_t>(); });
  (void)fuzz::accepted([&] { (void)json.string(); });
  (void)fuzz::accepted([&] { (void)json.boolean(); });
  if (json.is_array())
    for (const Json& element : json.elements()) ask(element);
  if (json.is_object())
    for (const auto& [key, member] : json.members()) {
      fuzz::must(json.find(key) == &member, "a member is found by its key");
      ask(member);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(bytes), size);
  Json json;
  const bool read = fuzz::accepted([&] { json = Json::parse(text); });
  const bool passed_over = fuzz::accepted([&] {
    mamba::io::JsonReader reader(text);
    reader.skip();
    reader.end();
  });
  fuzz::must(read == passed_over, "what is passed over is what can be read");
  // Any bytes as a string and as a key.
  const Json written = Json::parse(Json(Json::Members{{text, text}}).dump());
  fuzz::must(written.members()[0].first == written.members()[0].second.string(), "a string is written as a key is");
  if (!read) return 0;
  ask(json);
  for (const int indent : {-1, 1})
    fuzz::must(Json::parse(json.dump(indent)).dump() == json.dump(), "what is written reads back");
  return 0;
}
