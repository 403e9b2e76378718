// What must hold for every tokenizer that a file makes, and every text.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>

#include "tokenizer/stream_decoder.hpp"
#include "tokenizer/tokenizer.hpp"

namespace freekv {

/// Streaming gives what decode() gives, and where the tokenizer is `lossless` that is the text.
inline void round_trip(const Tokenizer& tokenizer, std::string_view text, bool lossless) {
  for (const bool parse_special : {false, true}) {
    const auto ids = tokenizer.encode(text, {.add_bos = !lossless, .parse_special = parse_special});
    const std::string decoded = tokenizer.decode(ids, true);
    StreamDecoder stream(tokenizer, true);
    std::string joined;
    for (const int32_t id : ids) joined += stream.push(id);
    joined += stream.flush();
    if (joined != decoded) std::abort();
    if (lossless && decoded != text) std::abort();
  }
}

/// Errors are one line without control characters, whatever names the file has.
inline void require_one_line(const Error& error) {
  for (const char c : error.message()) {
    if (c < 0x20 || c > 0x7e) std::abort();
  }
}

}  // namespace freekv
