// Any bytes as a tokenizer.json: refused with one line, or a tokenizer that works.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "round_trip.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace freekv;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  Result<Tokenizer> tokenizer = Tokenizer::from_json(bytes, "fuzz");
  if (!tokenizer.ok()) {
    require_one_line(tokenizer.error());
    return 0;
  }
  const std::string_view text =
      "hello  <s>\n\n we'LL 1234 aaaa <tool>s e\xcc\x81\xe2\x96\x81\xf0\x9f\xa6\x99\xff\xc0";
  round_trip(tokenizer.value(), text, false);
  round_trip(tokenizer.value(), bytes, false);  // as good a text as any
  return 0;
}
