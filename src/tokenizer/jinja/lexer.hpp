// Template source to tokens, with the whitespace control of Hugging Face's settings.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/jinja/value.hpp"

namespace freekv::jinja {

struct Token {
  enum class Kind : uint8_t {
    kData,  // text outside of tags
    kBlockBegin,
    kBlockEnd,
    kVariableBegin,
    kVariableEnd,
    kName,
    kString,
    kNumber,
    kOperator,
    kEnd,  // of the template; the last token
  };
  Kind kind = Kind::kEnd;
  int line = 1;
  std::string text;  // of data and names as written, of operators; decoded for strings
  Value number = {};

  bool is(Kind wanted, std::string_view wanted_text) const {
    return kind == wanted && text == wanted_text;
  }
};

/// With trim_blocks (a newline after a block tag goes) and lstrip_blocks (so do blanks before it),
/// "-" and "+" at tags, raw blocks and comments; a last newline of the template goes. Throws
/// Error(kParse) whose message begins with the line.
std::vector<Token> tokenize(std::string_view source);

}  // namespace freekv::jinja
