// The merges of a vocabulary by id.
#pragma once

#include "tokenizer/bpe_merges.hpp"
#include "tokenizer/tokenizer_spec.hpp"
#include "tokenizer/vocabulary.hpp"

namespace freekv {

/// From spec.merges, or where there are none from spec.scores (Kudo and Richardson, 2018,
/// "SentencePiece", whose BPE knows scores of tokens rather than merges: any two adjacent tokens
/// that spell a token merge, of these the token with the highest score). Throws Error(kParse) for
/// merges of anything but tokens and for scores that are not numbers, one for each token.
BpeMerges resolve_merges(const TokenizerSpec& spec, const Vocabulary& vocabulary);

/// The two tokens of "left right", which is merge number `index` of its file; throws Error(kParse).
MergeSpelling split_merge(std::string_view merge, size_t index);

}  // namespace freekv
