// Python's string operations, on UTF-8. A byte that begins no character counts as one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace freekv::jinja {

/// Where each character begins, and the end.
std::vector<size_t> character_offsets(std::string_view text);
int64_t character_count(std::string_view text);

/// Whether all of the text is what str.isspace() accepts; the empty text is.
bool is_space(std::string_view character);

/// str.strip(): of whitespace, or of the characters in *chars. Either end may be left alone.
std::string_view stripped(std::string_view text, const std::string* chars, bool left, bool right);

/// str.split() at whitespace, empty pieces left out; at most `limit` cuts unless it is negative.
std::vector<std::string> split_space(std::string_view text, int64_t limit);
/// str.split(separator) and, `from_right`, str.rsplit(separator). The separator is not empty.
std::vector<std::string> split_at(std::string_view text, std::string_view separator, int64_t limit,
                                  bool from_right);
/// str.splitlines().
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);

/// str.replace(); at most `limit` times unless it is negative.
std::string replaced(std::string_view text, std::string_view from, std::string_view to,
                     int64_t limit);

/// str.lower(), upper(), capitalize() and title(); kTitle is the filter of that name, for which
/// other characters begin a word.
enum class Case { kLower, kUpper, kCapital, kWords, kTitle };
/// Throws Error(kUnsupported) for characters beyond ASCII: their mapping needs Unicode's tables,
/// and no chat template is known to use it.
std::string in_case(std::string_view text, Case wanted);

/// repr().
std::string text_repr(std::string_view text);

/// json.dumps() of a string, quotes included.
std::string json_text(std::string_view text, bool ensure_ascii);

/// Appends a code point as UTF-8. Requires a valid one that is no surrogate.
void append_utf8(std::string& text, uint32_t code);
/// The code point of a character of character_offsets(); 0xfffd for a lone byte.
uint32_t code_point(std::string_view character);

}  // namespace freekv::jinja
