// The tokenizer of a checkpoint folder as data, for whoever stores it in another form.
#pragma once

#include <string>

#include "core/function_ref.hpp"
#include "tokenizer/tokenizer_spec.hpp"

namespace freekv {

/// Reads what Tokenizer::from_folder reads and calls `use` with it; the views in the specification
/// are valid during the call only. Throws what from_folder gives as errors.
void with_folder_spec(const std::string& folder, FunctionRef<void(const TokenizerSpec&)> use);

}  // namespace freekv
