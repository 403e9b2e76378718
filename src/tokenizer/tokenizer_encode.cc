// Tokenizer::encode: special tokens, then words, then merges within each word.
#include <deque>
#include <limits>
#include <optional>
#include <string>

#include "core/check.hpp"
#include "tokenizer/tokenizer.hpp"
#include "tokenizer/utf8.hpp"

namespace freekv {

// The state of one encode() call.
class Tokenizer::Encoder {
 public:
  Encoder(const Tokenizer& tokenizer, std::string_view text, std::vector<int32_t>& out)
      : tokenizer_(tokenizer), text_(text), out_(out) {
    if (text.size() >= kCacheFromBytes) cache_.resize(kCacheSlots);
  }

  void encode(bool parse_special) {
    const auto push = [&](int32_t token) { out_.push_back(token); };
    tokenizer_.specials_.split(
        text_, parse_special,
        [&](std::string_view stretch) {
          const bool at_start = stretch.data() == text_.data();
          const bool metaspace = tokenizer_.normalizer_.metaspace;
          const std::string_view text = metaspace ? stretch : normalize(stretch, at_start);
          tokenizer_.normalized_specials_.split(
              text, parse_special,
              [&](std::string_view part) {
                const bool first = at_start && part.data() == text.data();
                add_text(metaspace ? normalize(part, first) : part);
              },
              push);
        },
        push);
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

  // Words in the table stay views of what is returned here.
  std::string_view normalize(std::string_view text, bool at_start) {
    std::optional<std::string> changed = normalized(text, tokenizer_.normalizer_, at_start);
    return changed ? normalized_.emplace_back(*std::move(changed)) : text;
  }

  void add_text(std::string_view text) {
    if (tokenizer_.spelling_ == TokenSpelling::kByteAlphabet) {
      tokenizer_.pre_tokenizer_.split(text, [&](std::string_view word) { add_word(word); });
    } else {
      add_pieces(text);
    }
  }

  void add_pieces(std::string_view text) {
    const SpaceSplit split = tokenizer_.space_split_;
    size_t begin = 0;
    for (size_t at = 1; split != SpaceSplit::kNone && at < text.size(); ++at) {
      if (text[at] != ' ' || (split == SpaceSplit::kBeforeRuns && text[at - 1] == ' ')) continue;
      add_word(text.substr(begin, at - begin));
      begin = at;
    }
    add_word(text.substr(begin));
  }

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
    symbols_.clear();
    if (tokenizer_.spelling_ == TokenSpelling::kByteAlphabet) {
      for (const char c : word) symbols_.push_back(byte_token(c));
    } else {
      add_characters(word);
    }
    tokenizer_.merges_.apply(symbols_, workspace_, out_);
  }

  int32_t byte_token(char c) const { return tokenizer_.byte_tokens_[static_cast<uint8_t>(c)]; }

  // The tokens of the word's characters; of one that has none, those of its bytes, or the unknown
  // token.
  void add_characters(std::string_view word) {
    bool unknown = false;  // one is due, where runs are fused it stands for the whole run
    const auto flush = [&] {
      if (unknown) symbols_.push_back(tokenizer_.unknown_);
      unknown = false;
    };
    while (!word.empty()) {
      const Utf8Step step = utf8_step(word);
      const size_t length = step.state == Utf8State::kValid ? step.length : 1;
      const std::string_view character = word.substr(0, length);
      word.remove_prefix(length);
      if (const int32_t id = tokenizer_.vocabulary_.find_text(character); id != kNoToken) {
        flush();
        symbols_.push_back(id);
      } else if (has_byte_tokens(character)) {
        for (const char c : character) symbols_.push_back(byte_token(c));
      } else {
        if (!tokenizer_.fuse_unknown_) flush();
        unknown = true;
      }
    }
    flush();
  }

  bool has_byte_tokens(std::string_view character) const {
    for (const char c : character) {
      if (byte_token(c) == kNoToken) return false;
    }
    return true;
  }

  const Tokenizer& tokenizer_;
  std::string_view text_;
  std::vector<int32_t>& out_;
  std::deque<std::string> normalized_;
  std::vector<CachedWord> cache_;
  std::vector<int32_t> symbols_;
  BpeMerges::Workspace workspace_;
};

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  constexpr auto kMaxBytes = static_cast<size_t>(std::numeric_limits<int32_t>::max()) - 1;
  check_argument(text.size() <= kMaxBytes, "the text has {} bytes, at most {} can be encoded",
                 text.size(), kMaxBytes);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 1);  // English is 3 to 4.5 bytes a token
  if (options.add_bos && adds_bos_) ids.push_back(bos_);
  Encoder(*this, text, ids).encode(options.parse_special);
  return ids;
}

}  // namespace freekv
