// The first byte chooses: a pre-tokenizer for the rest as text, or the rest as a model file whose
// vocabulary is untrusted. In both, decoding must undo encoding.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "round_trip.hpp"
#include "tokenizer/tokenizer_test_vocab.hpp"

namespace freekv {
namespace {

void use_text(size_t which, std::string_view text) {
  static const Tokenizer tokenizers[] = {
      std::move(Tokenizer::create(SmallVocabulary("gpt-2").spec())).value(),
      std::move(Tokenizer::create(SmallVocabulary("llama-bpe").spec())).value(),
      std::move(Tokenizer::create(SmallVocabulary("qwen2").spec())).value()};
  round_trip(tokenizers[which], text, true);
}

void use_file(std::span<const uint8_t> bytes) {
  Result<Gguf> gguf = Gguf::parse(std::as_bytes(bytes), "fuzz");
  if (!gguf.ok()) return;
  Result<Tokenizer> tokenizer = Tokenizer::from_gguf(gguf.value());
  if (!tokenizer.ok()) {
    require_one_line(tokenizer.error());
    return;
  }
  // An unknown token stands for bytes that it does not give back, and SentencePiece takes two
  // characters for a space.
  const bool lossless =
      tokenizer.value().unknown() == kNoToken && tokenizer.value().pre_tokenizer() != "spm";
  round_trip(tokenizer.value(), "hello  <|im_end|>\n\n we'LL 1234 aaaa\xf0\x9f\xa6\x99\xff\xc0",
             lossless);
  // The file itself is as good a text as any.
  round_trip(tokenizer.value(),
             std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()), lossless);
}

}  // namespace
}  // namespace freekv

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span<const uint8_t> rest(data + 1, size - 1);
  if (data[0] % 4 == 3) {
    freekv::use_file(rest);
  } else {
    freekv::use_text(data[0] % 4,
                     std::string_view(reinterpret_cast<const char*>(rest.data()), rest.size()));
  }
  return 0;
}
