// Cuts text into the words that byte-level BPE merges within.
//
// Each pre-tokenizer is the regular expression published with its model family, written out as a
// scanner; the tests hold the scanners to the expressions. Classes of characters are those of
// unicode_class.hpp.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "core/function_ref.hpp"
#include "freekv/error.hpp"

namespace freekv {

/// Immutable; split() may run in several threads.
class PreTokenizer {
 public:
  /// By the name that GGUF files give in tokenizer.ggml.pre, of any in families(); kUnsupported
  /// otherwise.
  static Result<PreTokenizer> create(std::string_view name);

  struct Family {
    std::string_view name;
    std::span<const std::string_view> aliases;  // other names of the same expression
    /// What GGUF files leave to the name: a word that is a token becomes it whatever the merges
    /// say, and sequences begin with the bos token.
    bool whole_words_and_bos;
    std::string_view expression;  // as tokenizer.json files spell it
  };
  static std::span<const Family> families();

  /// The family with this regular expression, spelt exactly as in `expression`.
  static std::optional<std::string_view> name_of(std::string_view expression);

  const Family& family() const { return *family_; }
  /// The family's name, whichever of its names it was asked for by.
  std::string_view name() const { return family_->name; }

  /// Calls use(word) with non-empty words, which joined are `text`; any bytes are accepted. A run
  /// of bytes that are not UTF-8 is a word of its own. Time is linear in text.size().
  void split(std::string_view text, FunctionRef<void(std::string_view word)> use) const;

 private:
  // Bytes of the word at `at` in non-empty valid UTF-8.
  using WordLength = size_t (*)(std::string_view text, size_t at);

  PreTokenizer(const Family& family, WordLength word_length)
      : family_(&family), word_length_(word_length) {}

  const Family* family_;
  WordLength word_length_;
};

}  // namespace freekv
