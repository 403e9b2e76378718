// Tokens to text as they are generated, never in the middle of a UTF-8 character.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tokenizer/tokenizer.hpp"

namespace freekv {

/// Joined, the pieces are exactly what Tokenizer::decode() gives for the same tokens, unless they
/// continue a text. A character
/// whose bytes come in several tokens is held back until it is whole; bytes that cannot become a
/// character are passed on as they are. Not thread-safe; refers to the tokenizer.
class StreamDecoder {
 public:
  /// `continues`: the text goes on another, so that the space prefix which decode() drops at the
  /// beginning of a text is a space between words here, and stays.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool special = false, bool continues = false)
      : tokenizer_(&tokenizer),
        special_(special),
        at_start_(tokenizer.strips_leading_space() && !continues) {}

  /// The text that is complete with this token, valid until the next call; may be empty. At most 3
  /// bytes are held back. Throws Error(kInvalidArgument) for an id outside the vocabulary, and then
  /// changes nothing. Allocates only until the buffer has held the longest token.
  std::string_view push(int32_t token);

  /// What is still held back: an incomplete character; empties the decoder.
  std::string_view flush();

 private:
  const Tokenizer* tokenizer_;
  bool special_;
  bool at_start_;  // a space that comes first is to be dropped
  std::string buffer_;
  size_t handed_out_ = 0;  // bytes of buffer_ that the last call returned
};

}  // namespace freekv
