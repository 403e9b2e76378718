// The first byte chooses: a pre-tokenizer for the rest as text, or the rest as a model file whose
// vocabulary is untrusted. In both, decoding must undo encoding.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "tokenizer/stream_decoder.hpp"
#include "tokenizer/tokenizer.hpp"
#include "tokenizer/tokenizer_test_vocab.hpp"

namespace freekv {
namespace {

void round_trip(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer.encode(text, {.parse_special = parse_special});
    const std::string decoded = tokenizer.decode(ids, true);
    StreamDecoder stream(tokenizer, true);
    std::string joined;
    for (const int32_t id : ids) joined += stream.push(id);
    joined += stream.flush();
    if (joined != decoded) std::abort();
    // An unknown token stands for bytes that it does not give back, and SentencePiece takes two
    // characters for a space.
    const bool lossless = tokenizer.unknown() == kNoToken && tokenizer.pre_tokenizer() != "spm";
    if (lossless && decoded != text) std::abort();
  }
}

void use_text(size_t which, std::string_view text) {
  static const Tokenizer tokenizers[] = {
      std::move(Tokenizer::create(SmallVocabulary("gpt-2").spec())).value(),
      std::move(Tokenizer::create(SmallVocabulary("llama-bpe").spec())).value(),
      std::move(Tokenizer::create(SmallVocabulary("qwen2").spec())).value()};
  round_trip(tokenizers[which], text);
}

void use_file(std::span<const uint8_t> bytes) {
  Result<Gguf> gguf = Gguf::parse(std::as_bytes(bytes), "fuzz");
  if (!gguf.ok()) return;
  Result<Tokenizer> tokenizer = Tokenizer::from_gguf(gguf.value());
  if (!tokenizer.ok()) {
    if (tokenizer.error().message().find('\n') != std::string::npos) std::abort();
    return;
  }
  round_trip(tokenizer.value(), "hello  <|im_end|>\n\n we'LL 1234 aaaa\xf0\x9f\xa6\x99\xff\xc0");
  // The file itself is as good a text as any.
  round_trip(tokenizer.value(),
             std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
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
