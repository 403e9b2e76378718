// A model's configuration and tokenizer as GGUF metadata, under the keys that llama.cpp's converter
// writes.
#pragma once

#include <string>

#include "io/gguf_writer.hpp"
#include "model/config.hpp"
#include "tokenizer/tokenizer_spec.hpp"

namespace freekv {

/// general.file_type and general.quantization_version.
void add_type_metadata(GgufWriter& writer, DType type);
/// general.* and <architecture>.*, RoPE scaling included. Llama3 scaling has no key: it is written
/// as rope_freqs.weight. "dynamic" is a value of our own for rope.scaling.type.
void add_config_metadata(GgufWriter& writer, const ModelConfig& config);
/// tokenizer.*; ids up to `vocab` that have no token become unused ones named [PAD<id>]. Throws
/// Error(kParse) when there are more tokens than `vocab`.
void add_tokenizer_metadata(GgufWriter& writer, const TokenizerSpec& spec, int64_t vocab);

}  // namespace freekv
