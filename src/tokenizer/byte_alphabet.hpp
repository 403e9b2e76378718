// The printable spelling of bytes that byte-level BPE vocabularies are written in.
//
// From GPT-2 (Radford et al., 2019, "Language Models are Unsupervised Multitask Learners", section
// 2.2; the table is part of its published encoder): the 188 printable Latin-1 characters other than
// the space and the soft hyphen stand for themselves, the other 68 bytes in ascending order are
// U+0100 and up. So the space is U+0120.
#pragma once

#include <string>
#include <string_view>

namespace freekv {

/// Appends the bytes that `text` spells. False, with `bytes` unchanged, when `text` holds anything
/// outside the alphabet.
bool append_spelled_bytes(std::string_view text, std::string& bytes);

/// The spelling of `bytes`.
std::string spell_bytes(std::string_view bytes);

}  // namespace freekv
