// Word lists of the generated tasks: those of tools/train_demo_model/words.py.
#pragma once

#include <span>
#include <string_view>

namespace freekv::eval {

std::span<const std::string_view> adjectives();
std::span<const std::string_view> nouns();
/// A variable's name is one of each: five capital letters.
std::span<const std::string_view> name_heads();
std::span<const std::string_view> name_tails();

}  // namespace freekv::eval
