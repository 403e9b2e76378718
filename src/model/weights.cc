#include "model/weights.hpp"

#include <algorithm>

#include "core/check.hpp"
#include "io/gguf.hpp"

namespace freekv {
namespace {

/// Takes tensors from the file and checks each against the shape the configuration implies.
class Reader {
 public:
  Reader(const Gguf& file, ModelWeights& weights) : file_(file), weights_(weights) {}

  WeightView matrix(const std::string& name, int64_t rows, int64_t cols) {
    const GgufTensor tensor = checked(name, file_.tensor(name), rows, cols);
    if (tensor.dtype == DType::kQ8_0 && cols % kQ8BlockValues != 0) {
      throw Error(ErrorCode::kParse,
                  fmt::format("tensor {} has rows of {} values, Q8_0 needs a multiple of {}", name,
                              cols, kQ8BlockValues),
                  file_.name());
    }
    return {tensor.data, tensor.dtype, rows, cols};
  }

  View<const float, 1> vector(const std::string& name, int64_t size) {
    return as_vector(name, checked(name, file_.tensor(name), 1, size), size);
  }

  View<const float, 1> optional_vector(const std::string& name, int64_t size) {
    const auto tensor = file_.find_tensor(name);
    if (!tensor) return {};
    return as_vector(name, checked(name, *tensor, 1, size), size);
  }

 private:
  GgufTensor checked(const std::string& name, const GgufTensor& tensor, int64_t rows,
                     int64_t cols) {
    if (tensor.rows() != rows || tensor.cols() != cols) {
      throw Error(ErrorCode::kParse,
                  fmt::format("tensor {} is {} x {}, the configuration implies {} x {}", name,
                              tensor.rows(), tensor.cols(), rows, cols),
                  file_.name());
    }
    weights_.bytes += tensor.bytes;
    return tensor;
  }

  View<const float, 1> as_vector(const std::string& name, const GgufTensor& tensor, int64_t size) {
    if (tensor.dtype != DType::kF32) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("tensor {} is {}, must be F32", name, dtype_name(tensor.dtype)),
                  file_.name());
    }
    if (reinterpret_cast<uintptr_t>(tensor.data) % alignof(float) != 0) {
      throw Error(ErrorCode::kParse, fmt::format("tensor {} is not aligned to 4 bytes", name),
                  file_.name());
    }
    return View<const float, 1>(reinterpret_cast<const float*>(tensor.data), size);
  }

  const Gguf& file_;
  ModelWeights& weights_;
};

}  // namespace

ModelWeights read_weights(const Gguf& file, const ModelConfig& config) {
  ModelWeights weights;
  Reader read(file, weights);
  const int64_t hidden = config.hidden, ffn = config.ffn;
  const int64_t q_width = int64_t{config.query_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.kv_heads} * config.head_dim;

  weights.embedding = read.matrix("token_embd.weight", config.vocab, hidden);
  // No reserve: a hostile block_count must run into its first missing tensor, not into memory.
  for (int i = 0; i < config.layers; ++i) {
    const std::string prefix = fmt::format("blk.{}.", i);
    weights.layers.push_back({
        .attention_norm = read.vector(prefix + "attn_norm.weight", hidden),
        .q = read.matrix(prefix + "attn_q.weight", q_width, hidden),
        .k = read.matrix(prefix + "attn_k.weight", kv_width, hidden),
        .v = read.matrix(prefix + "attn_v.weight", kv_width, hidden),
        .output = read.matrix(prefix + "attn_output.weight", hidden, q_width),
        .ffn_norm = read.vector(prefix + "ffn_norm.weight", hidden),
        .gate = read.matrix(prefix + "ffn_gate.weight", ffn, hidden),
        .up = read.matrix(prefix + "ffn_up.weight", ffn, hidden),
        .down = read.matrix(prefix + "ffn_down.weight", hidden, ffn),
    });
  }
  weights.final_norm = read.vector("output_norm.weight", hidden);
  weights.logits = file.find_tensor("output.weight")
                       ? read.matrix("output.weight", config.vocab, hidden)
                       : weights.embedding;
  weights.rope_factors = read.optional_vector("rope_freqs.weight", config.head_dim / 2);
  return weights;
}

}  // namespace freekv
