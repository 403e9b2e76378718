#include "tokenizer/pre_tokenizer.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/check.hpp"
#include "io/quote.hpp"
#include "tokenizer/utf8.hpp"

namespace freekv {
namespace {

// White_Space as the members of a class, since \s of PCRE2 also takes U+180E.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kContractions = "'s|'t|'re|'ve|'m|'ll|'d";

// A run of whitespace, less the last one before other text, which that text's word begins with.
std::string whitespace() { return fmt::format("[{0}]+(?![^{0}])|[{0}]+", kSpace); }

std::string gpt2_pattern() {
  return fmt::format(R"({}| ?\p{{L}}+| ?\p{{N}}+| ?[^{}\p{{L}}\p{{N}}]+|{})", kContractions, kSpace,
                     whitespace());
}

// Llama 3 and Qwen2 differ in how many digits make a word.
std::string modern_pattern(int max_digits) {
  return fmt::format(R"((?i:{0})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,{1}}})"
                     R"(| ?[^{2}\p{{L}}\p{{N}}]+[\r\n]*|[{2}]*[\r\n]+|{3})",
                     kContractions, max_digits, kSpace, whitespace());
}

struct Expression {
  std::string_view name;
  std::vector<std::string_view> aliases;
  std::string pattern;
};

std::vector<Expression> expressions() {
  return {{"gpt-2", {"default"}, gpt2_pattern()},
          {"llama-bpe", {"llama3", "llama-v3"}, modern_pattern(3)},
          {"qwen2", {"deepseek-r1-qwen"}, modern_pattern(1)}};
}

std::optional<Expression> find_expression(std::string_view name) {
  for (Expression& expression : expressions()) {
    const auto& aliases = expression.aliases;
    if (name == expression.name ||
        std::find(aliases.begin(), aliases.end(), name) != aliases.end()) {
      return std::move(expression);
    }
  }
  return std::nullopt;
}

}  // namespace

void PreTokenizer::CodeDeleter::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

Result<PreTokenizer> PreTokenizer::create(std::string_view name, bool jit) {
  const std::optional<Expression> expression = find_expression(name);
  if (!expression) {
    return Error(
        ErrorCode::kUnsupported,
        fmt::format("pre-tokenizer is {}, supported are gpt-2, llama-bpe and qwen2", quoted(name)));
  }
  int error = 0;
  PCRE2_SIZE at = 0;
  // Anchored: each match starts where the last one ended, as every character is in some word.
  PreTokenizer result(expression->name,
                      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression->pattern.data()),
                                    expression->pattern.size(),
                                    PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &at, nullptr));
  check_internal(result.code_ != nullptr, "pre-tokenizer {}: PCRE2 error {} at {}", name, error,
                 at);
  // Without a JIT on this machine the same code is interpreted.
  if (jit) pcre2_jit_compile(result.code_.get(), PCRE2_JIT_COMPLETE);
  return result;
}

namespace {

// The match state of one split() call.
class Matcher {
 public:
  explicit Matcher(const pcre2_code* code)
      : code_(code),
        data_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    if (!data_ || !context_) throw Error(ErrorCode::kOutOfMemory, "no memory for PCRE2 match data");
    // The limits guard against exponential patterns; these take steps linear in the word.
    pcre2_set_match_limit(context_.get(), UINT32_MAX);
    pcre2_set_heap_limit(context_.get(), UINT32_MAX);
  }

  // Bytes of the word at `at` in a subject that is valid UTF-8.
  size_t word_length(std::string_view subject, size_t at) {
    int rc = match(subject, at, PCRE2_NO_UTF_CHECK);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
      rc = match(subject, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
    check_internal(rc >= 0, "PCRE2 match error {} at byte {} of {}", rc, at, subject.size());
    const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data_.get());
    check_internal(ends[0] == at && ends[1] > at, "PCRE2 matched {} to {} at byte {}", ends[0],
                   ends[1], at);
    return ends[1] - at;
  }

 private:
  int match(std::string_view subject, size_t at, uint32_t options) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), at,
                       options, data_.get(), context_.get());
  }

  struct Deleter {
    void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
    void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
  };
  const pcre2_code* code_;
  std::unique_ptr<pcre2_match_data, Deleter> data_;
  std::unique_ptr<pcre2_match_context, Deleter> context_;
};

}  // namespace

void PreTokenizer::split(std::string_view text,
                         FunctionRef<void(std::string_view word)> use) const {
  Matcher matcher(code_.get());
  while (!text.empty()) {
    // Validity is settled once per stretch: left to PCRE2, every match would check the whole rest.
    const std::string_view valid = text.substr(0, utf8_valid_prefix(text));
    for (size_t at = 0; at < valid.size();) {
      const size_t length = matcher.word_length(valid, at);
      use(valid.substr(at, length));
      at += length;
    }
    text.remove_prefix(valid.size());
    const size_t invalid = utf8_invalid_prefix(text);
    if (invalid > 0) use(text.substr(0, invalid));
    text.remove_prefix(invalid);
  }
}

}  // namespace freekv
