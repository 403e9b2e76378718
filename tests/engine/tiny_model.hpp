// A random llama model of a few kilobytes, written as a GGUF file for a test's lifetime.
#pragma once

#include <cstdint>
#include <string>

#include "core/dtype.hpp"
#include "freekv/options.hpp"
#include "io/gguf_test_file.hpp"
#include "support/scratch_folder.hpp"

namespace freekv {

struct TinyModelShape {
  int layers = 3;
  int hidden = 32;
  int query_heads = 6;
  int kv_heads = 2;
  int head_dim = 16;
  int ffn = 64;
  int context = 2048;
  std::string chat_template =  // ChatML
      "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
      "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
  DType weights = DType::kF32;  // of the matrices, one that quantize_row() writes
  bool begins = false;          // a prompt begins with <|im_start|>
};

/// All records of the model: a byte-level vocabulary of 256 bytes and two control tokens, ChatML,
/// weights from a fixed seed, sharp enough that attention is far from uniform.
GgufTestFile tiny_model_records(const TinyModelShape& shape = {});

/// The model as a file, removed at the end.
class TemporaryModel {
 public:
  explicit TemporaryModel(const GgufTestFile& records = tiny_model_records());
  const std::string& path() const { return path_; }

 private:
  testing_support::ScratchFolder folder_;
  std::string path_;
};

/// Options under which sequences of more than 96 tokens retrieve: k = 6 pages of 8 tokens.
EngineOptions tiny_options(const TemporaryModel& model);

/// A tiny model of a shape that the backend runs, and options under which sequences of more than 96
/// tokens retrieve.
TinyModelShape shape_for(const std::string& backend);
EngineOptions options_for(const std::string& backend, const TemporaryModel& model);

}  // namespace freekv
