#include "tiny_model.hpp"

#include <random>

#include "core/quantize.hpp"
#include "io/gguf_tensor_type.hpp"
#include "tokenizer/byte_alphabet.hpp"

namespace freekv {
namespace {

constexpr int32_t kNormal = 1, kControl = 3;

std::string random_matrix(std::mt19937& random, DType dtype, uint64_t rows, uint64_t cols,
                          float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(rows * cols);
  for (float& value : values) value = normal(random);
  // Rows are whole blocks, so that all of them can be written as one.
  std::string data(rows * row_bytes(dtype, static_cast<int64_t>(cols)), '\0');
  quantize_row(dtype, values, reinterpret_cast<std::byte*>(data.data()));
  return data;
}

std::string ones(int64_t count) {
  std::string data;
  for (int64_t i = 0; i < count; ++i) data += GgufTestFile::number(1.0f);
  return data;
}

}  // namespace

GgufTestFile tiny_model_records(const TinyModelShape& s) {
  GgufTestFile file;
  const auto u32 = [](int value) { return static_cast<uint32_t>(value); };
  file.text("general.architecture", "llama").text("general.name", "tiny");
  file.scalar("llama.context_length", u32(s.context))
      .scalar("llama.embedding_length", u32(s.hidden))
      .scalar("llama.block_count", u32(s.layers))
      .scalar("llama.feed_forward_length", u32(s.ffn))
      .scalar("llama.attention.head_count", u32(s.query_heads))
      .scalar("llama.attention.head_count_kv", u32(s.kv_heads))
      .scalar("llama.attention.key_length", u32(s.head_dim))
      .scalar("llama.attention.value_length", u32(s.head_dim))
      .scalar("llama.attention.layer_norm_rms_epsilon", 1e-6f)
      .scalar("llama.rope.freq_base", 10000.0f);

  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    tokens.push_back(spell_bytes(std::string_view(&c, 1)));
    types.push_back(kNormal);
  }
  for (const char* control : {"<|im_start|>", "<|im_end|>"}) {
    tokens.emplace_back(control);
    types.push_back(kControl);
  }
  const auto vocab = static_cast<uint64_t>(tokens.size());
  file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "qwen2");
  file.texts("tokenizer.ggml.tokens", tokens).array("tokenizer.ggml.token_type", types);
  file.texts("tokenizer.ggml.merges", {});
  file.scalar("tokenizer.ggml.eos_token_id", uint32_t{257});
  if (s.begins) {
    file.scalar("tokenizer.ggml.bos_token_id", uint32_t{256});
    file.scalar("tokenizer.ggml.add_bos_token", true);
  }
  file.text("tokenizer.chat_template", s.chat_template);

  std::mt19937 random(1234);
  const auto hidden = static_cast<uint64_t>(s.hidden), ffn = static_cast<uint64_t>(s.ffn);
  const auto q_width = static_cast<uint64_t>(s.query_heads * s.head_dim);
  const auto kv_width = static_cast<uint64_t>(s.kv_heads * s.head_dim);
  const auto matrix = [&](const std::string& name, uint64_t rows, uint64_t cols, float deviation) {
    file.tensor(name, {cols, rows}, gguf_type_id(s.weights),
                random_matrix(random, s.weights, rows, cols, deviation));
  };
  const auto norm = [&](const std::string& name) {
    file.tensor(name, {hidden}, gguf_type_id(DType::kF32), ones(s.hidden));
  };
  matrix("token_embd.weight", vocab, hidden, 1);
  norm("output_norm.weight");
  for (int i = 0; i < s.layers; ++i) {
    const std::string prefix = "blk." + std::to_string(i) + ".";
    norm(prefix + "attn_norm.weight");
    matrix(prefix + "attn_q.weight", q_width, hidden, 0.35f);
    matrix(prefix + "attn_k.weight", kv_width, hidden, 0.35f);
    matrix(prefix + "attn_v.weight", kv_width, hidden, 0.2f);
    matrix(prefix + "attn_output.weight", hidden, q_width, 0.2f);
    norm(prefix + "ffn_norm.weight");
    matrix(prefix + "ffn_gate.weight", ffn, hidden, 0.2f);
    matrix(prefix + "ffn_up.weight", ffn, hidden, 0.2f);
    matrix(prefix + "ffn_down.weight", hidden, ffn, 0.1f);
  }
  return file;
}

TemporaryModel::TemporaryModel(const GgufTestFile& records)
    : path_(folder_.write("tiny.gguf", records.bytes())) {}

EngineOptions tiny_options(const TemporaryModel& model) {
  EngineOptions options;
  options.model = model.path();
  options.context = 512;
  options.budget = 96;
  options.sink = 16;
  options.window = 32;
  options.page = 8;
  options.threads = 2;
  options.chunk = 64;
  options.max_batch = 3;
  return options;
}

TinyModelShape shape_for(const std::string& backend) {
  TinyModelShape shape;
  if (backend != "cuda") return shape;
  // The smallest that its kernels run; bf16, since that is what weights become there.
  shape.head_dim = 64;
  shape.weights = DType::kBF16;
  return shape;
}

EngineOptions options_for(const std::string& backend, const TemporaryModel& model) {
  EngineOptions options = tiny_options(model);
  options.backend = backend;
  if (backend != "cuda") return options;
  options.page = 16;
  options.kv_type = "bf16";
  return options;
}

}  // namespace freekv
