// Tokenizer::encode: special tokens, then words, then merges within each word.
#include <cstring>
#include <limits>

#include "core/check.hpp"
#include "tokenizer/tokenizer.hpp"

namespace freekv {

// The state of one encode() call.
class Tokenizer::Encoder {
 public:
  Encoder(const Tokenizer& tokenizer, std::vector<int32_t>& out, size_t text_bytes)
      : tokenizer_(tokenizer), out_(out) {
    if (text_bytes >= kCacheFromBytes) cache_.resize(kCacheSlots);
  }

  void add_text(std::string_view text) {
    tokenizer_.pre_tokenizer_.split(text, [&](std::string_view word) { add_word(word); });
  }

 private:
  // Words repeat, and one that this call has met already has its ids in the output. Longer texts
  // are worth a table of where.
  static constexpr size_t kCacheFromBytes = 1024;
  static constexpr size_t kCacheSlots = 8192;
  static constexpr size_t kCachedWordBytes = 32;
  struct CachedWord {
    std::string_view word;
    size_t begin = 0;
    size_t count = 0;
  };

  void add_word(std::string_view word) {
    if (cache_.empty() || word.size() > kCachedWordBytes) {
      encode_word(word);
      return;
    }
    CachedWord& cached = cache_[slot_of(word)];
    if (cached.word == word) {
      for (size_t i = 0; i < cached.count; ++i) {
        const int32_t id = out_[cached.begin + i];
        out_.push_back(id);
      }
      return;
    }
    cached = {word, out_.size(), 0};
    encode_word(word);
    cached.count = out_.size() - cached.begin;
  }

  // A collision costs a repeated encoding and no more.
  static size_t slot_of(std::string_view word) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char c : word) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
    return (hash ^ hash >> 29) % kCacheSlots;
  }

  void encode_word(std::string_view word) {
    if (tokenizer_.whole_words_first_) {
      const int32_t id = tokenizer_.vocabulary_.find_text(word);
      if (id != kNoToken && tokenizer_.vocabulary_.type(id) != TokenType::kUserDefined) {
        out_.push_back(id);
        return;
      }
    }
    byte_ids_.clear();
    for (const char c : word) {
      byte_ids_.push_back(tokenizer_.byte_tokens_[static_cast<uint8_t>(c)]);
    }
    tokenizer_.merges_.apply(byte_ids_, workspace_, out_);
  }

  const Tokenizer& tokenizer_;
  std::vector<int32_t>& out_;
  std::vector<CachedWord> cache_;
  std::vector<int32_t> byte_ids_;
  BpeMerges::Workspace workspace_;
};

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  constexpr auto kMaxBytes = static_cast<size_t>(std::numeric_limits<int32_t>::max());
  check_argument(text.size() <= kMaxBytes, "the text has {} bytes, at most {} can be encoded",
                 text.size(), kMaxBytes);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 1);  // English is 3 to 4.5 bytes a token
  if (options.add_bos && adds_bos_) ids.push_back(bos_);
  Encoder encoder(*this, ids, text.size());
  if (options.parse_special) {
    specials_.split(
        vocabulary_, text, [&](std::string_view ordinary) { encoder.add_text(ordinary); },
        [&](int32_t token) { ids.push_back(token); });
  } else {
    encoder.add_text(text);
  }
  return ids;
}

}  // namespace freekv
