// File-supplied names made safe for a one-line message.
#pragma once

#include <string>
#include <string_view>

namespace freekv {

/// `text` in single quotes, with everything but printable ASCII as \xNN, cut to 80 bytes of input:
/// an untrusted name can neither break a message into lines nor drive the terminal.
std::string quoted(std::string_view text);

/// The same without quotes where nothing has to be changed or cut: for keys, of which most are ours
/// and some the file's own.
std::string quoted_if_odd(std::string_view text);

}  // namespace freekv
