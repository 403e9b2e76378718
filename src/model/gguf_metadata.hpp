// A model's configuration and tokenizer as GGUF metadata, under the keys that llama.cpp's converter
// writes.
#pragma once

#include <string>

#include "io/gguf_writer.hpp"
#include "model/config.hpp"

namespace freekv {

/// general.file_type and general.quantization_version.
void add_type_metadata(GgufWriter& writer, DType type);
/// general.* and <architecture>.*, RoPE scaling included. Llama3 scaling has no key: it is written
/// as rope_freqs.weight. "dynamic" is a value of our own for rope.scaling.type.
void add_config_metadata(GgufWriter& writer, const ModelConfig& config);

}  // namespace freekv
