// What happens to ordinary text before words are cut from it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace freekv {

/// Where SentencePiece puts a space before the text, so that a word has one spelling.
enum class SpacePrefix {
  kNever,
  kFirst,   // only at the very start of the text
  kAlways,  // also after each special token
};

struct NormalizerOptions {
  bool nfc = false;            // Unicode's canonical composition
  bool unmark_spaces = false;  // U+2581 becomes a space: SentencePiece knows no difference
  SpacePrefix space_prefix = SpacePrefix::kNever;
  /// Spaces are the business of the pre-tokenizer Metaspace rather than of a normalizer: special
  /// tokens are looked for first, and a text that begins with a space gets no prefix.
  bool metaspace = false;
};

/// Non-empty `text` normalized, or nullopt where nothing changes. `at_start`: nothing stands before
/// it.
std::optional<std::string> normalized(std::string_view text, const NormalizerOptions& options,
                                      bool at_start);

/// Canonical composition (Unicode Standard Annex #15, form C) of any bytes; what is not UTF-8 stays
/// as it is. By Unicode 9, as Hugging Face tokenizers does: marks that came later do not move.
/// Time is n log n in the length of the longest run of combining marks.
std::string normalize_nfc(std::string_view text);

/// Whether `text` is of characters that form C leaves alone whatever stands beside them, as most
/// text is. False says nothing.
bool is_plainly_nfc(std::string_view text);

}  // namespace freekv
