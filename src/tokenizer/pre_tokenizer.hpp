// Cuts text into the words that byte-level BPE merges within.
//
// Each pre-tokenizer is the regular expression published with its model family: GPT-2's encoder,
// Llama 3's tokenizer, Qwen2's tokenizer. Whitespace is the Unicode property White_Space.
#pragma once

#include <memory>
#include <string_view>

#include "core/function_ref.hpp"
#include "freekv/error.hpp"

struct pcre2_real_code_8;

namespace freekv {

/// Immutable once made; split() may run in several threads.
class PreTokenizer {
 public:
  /// By the name that GGUF files give in tokenizer.ggml.pre: "gpt-2" (also "default"),
  /// "llama-bpe" ("llama3", "llama-v3") or "qwen2" ("deepseek-r1-qwen"). kUnsupported otherwise.
  /// `jit` false leaves the expression to the interpreter, as on machines without a JIT.
  static Result<PreTokenizer> create(std::string_view name, bool jit = true);

  /// The first of the names above that stand for the same expression.
  std::string_view name() const { return name_; }

  /// Calls use(word) with non-empty words, which joined are `text`; any bytes are accepted. A run
  /// of bytes that are not UTF-8 is a word of its own. Time is linear in text.size().
  void split(std::string_view text, FunctionRef<void(std::string_view word)> use) const;

 private:
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };

  PreTokenizer(std::string_view name, pcre2_real_code_8* code) : name_(name), code_(code) {}

  std::string_view name_;
  std::unique_ptr<pcre2_real_code_8, CodeDeleter> code_;
};

}  // namespace freekv
