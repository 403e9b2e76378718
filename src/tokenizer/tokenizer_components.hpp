// The components of a tokenizer.json around its model, in the forms that this library knows.
#pragma once

#include <optional>

#include "tokenizer/json_field.hpp"
#include "tokenizer/tokenizer_spec.hpp"

namespace freekv {

/// Sets the parts of `spec` that "normalizer", "pre_tokenizer" and "decoder" of the document say:
/// spelling, pre_tokenizer, normalizer, split_at_spaces, strip_leading_space. Throws
/// Error(kUnsupported) for everything else that could be there.
void read_components(const JsonField& document, TokenizerSpec& spec);

/// The token id that the post-processor begins a sequence with, or kNoToken.
int32_t read_template_bos(const JsonField& post_processor);

}  // namespace freekv
