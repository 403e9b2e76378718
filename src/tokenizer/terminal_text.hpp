// What a terminal may be given of a text that nobody has looked at.
#pragma once

#include <string>
#include <string_view>

namespace freekv {

/// `text` with its control characters made visible, but for tab and line feed: ^[ for escape and
/// so on, U+FFFD for those above 0x7f and for bytes that are no character. A model's text then
/// moves no cursor, changes no title and hides nothing. In whole characters, as StreamDecoder gives
/// them.
std::string for_terminal(std::string_view text);

}  // namespace freekv
