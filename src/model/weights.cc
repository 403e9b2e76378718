#include "model/weights.hpp"

#include <cmath>
#include <unordered_set>

#include "core/check.hpp"
#include "io/quote.hpp"

namespace freekv {
namespace {

/// Takes tensors from the file and checks each against the shape the configuration implies.
class Reader {
 public:
  Reader(const TensorSource& source, ModelWeights& weights) : source_(source), weights_(weights) {}

  WeightView matrix(const std::string& name, int64_t rows, int64_t cols) {
    const SourceTensor tensor = checked(name, require(name), rows, cols);
    return {tensor.data, tensor.dtype, rows, cols};
  }

  View<const float, 1> vector(const std::string& name, int64_t size,
                              Presence presence = Presence::kAlways) {
    if (presence == Presence::kNever) return {};
    if (presence == Presence::kOptional && !source_.find(name)) return {};
    const SourceTensor tensor = checked(name, require(name), 1, size);
    std::vector<float>& values = weights_.vectors.emplace_back(static_cast<size_t>(size));
    for (int64_t i = 0; i < size; ++i) {
      values[static_cast<size_t>(i)] = load_element(tensor.dtype, tensor.data, i);
    }
    return View<const float, 1>(values.data(), size);
  }

  /// A tensor of a layer that nothing asked for changes what the model computes.
  void refuse_others(const ModelConfig& config) const {
    const TensorNames& names = source_.names();
    for (const std::string_view name : source_.all_names()) {
      if (!name.starts_with(names.layer_prefix) || name.ends_with(names.ignored_suffix) ||
          used_.contains(std::string(name))) {
        continue;
      }
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("tensor {} has no place in a {} model of {} layers",
                              freekv::quoted(name), config.architecture, config.layers),
                  source_.path());
    }
  }

 private:
  SourceTensor require(const std::string& name) const {
    const auto tensor = source_.find(name);
    if (!tensor) {
      throw Error(ErrorCode::kNotFound, fmt::format("tensor {} is missing", freekv::quoted(name)),
                  source_.path());
    }
    return *tensor;
  }

  SourceTensor checked(const std::string& name, const SourceTensor& tensor, int64_t rows,
                       int64_t cols) {
    if (tensor.rows != rows || tensor.cols != cols) {
      throw Error(ErrorCode::kParse,
                  fmt::format("tensor {} is {} x {}, the configuration implies {} x {}", name,
                              tensor.rows, tensor.cols, rows, cols),
                  *tensor.file);
    }
    weights_.bytes += tensor.bytes;
    used_.insert(name);
    return tensor;
  }

  const TensorSource& source_;
  ModelWeights& weights_;
  std::unordered_set<std::string> used_;
};

void check_rope_factors(const ModelWeights& weights, const TensorSource& source) {
  for (const float factor : weights.rope_factors.flat()) {
    if (std::isfinite(factor) && factor > 0) continue;
    throw Error(ErrorCode::kParse,
                fmt::format("tensor {} holds {}, must be above 0 and finite",
                            freekv::quoted(source.names().rope_factors), factor),
                source.path());
  }
}

}  // namespace

std::vector<WeightView> ModelWeights::matrices() const {
  std::vector<WeightView> all = {embedding};
  if (!tied()) all.push_back(logits);
  for (const LayerWeights& w : layers) {
    all.insert(all.end(), {w.q, w.k, w.v, w.output, w.gate, w.up, w.down});
  }
  return all;
}

ModelWeights read_weights(const TensorSource& source, const ModelConfig& config) {
  ModelWeights weights;
  Reader read(source, weights);
  const TensorNames& names = source.names();
  const int64_t hidden = config.hidden, ffn = config.ffn, dim = config.head_dim;
  const int64_t q_width = config.query_heads * dim, kv_width = config.kv_heads * dim;

  weights.embedding = read.matrix(std::string(names.embedding), config.vocab, hidden);
  // No reserve: a hostile layer count must run into its first missing tensor, not into memory.
  for (int i = 0; i < config.layers; ++i) {
    const std::string prefix = fmt::format("{}{}.", names.layer_prefix, i);
    const auto name = [&](std::string_view part, std::string_view end = "") {
      return fmt::format("{}{}{}", prefix, part, end);
    };
    weights.layers.push_back({
        .attention_norm = read.vector(name(names.attention_norm), hidden),
        .q = read.matrix(name(names.q, ".weight"), q_width, hidden),
        .k = read.matrix(name(names.k, ".weight"), kv_width, hidden),
        .v = read.matrix(name(names.v, ".weight"), kv_width, hidden),
        .output = read.matrix(name(names.output, ".weight"), hidden, q_width),
        .q_bias = read.vector(name(names.q, ".bias"), q_width, config.qkv_bias),
        .k_bias = read.vector(name(names.k, ".bias"), kv_width, config.qkv_bias),
        .v_bias = read.vector(name(names.v, ".bias"), kv_width, config.qkv_bias),
        .output_bias = read.vector(name(names.output, ".bias"), hidden, config.output_bias),
        .q_norm = read.vector(name(names.q_norm), dim, config.qk_norm),
        .k_norm = read.vector(name(names.k_norm), dim, config.qk_norm),
        .ffn_norm = read.vector(name(names.ffn_norm), hidden),
        .gate = read.matrix(name(names.gate), ffn, hidden),
        .up = read.matrix(name(names.up), ffn, hidden),
        .down = read.matrix(name(names.down), hidden, ffn),
    });
  }
  read.refuse_others(config);
  weights.final_norm = read.vector(std::string(names.final_norm), hidden);
  const std::string logits(names.logits);
  const bool untied =
      config.output_matrix == Presence::kAlways ||
      (config.output_matrix == Presence::kOptional && source.find(logits).has_value());
  weights.logits = untied ? read.matrix(logits, config.vocab, hidden) : weights.embedding;
  if (!names.rope_factors.empty()) {
    weights.rope_factors =
        read.vector(std::string(names.rope_factors), dim / 2, Presence::kOptional);
    check_rope_factors(weights, source);
  }
  return weights;
}

}  // namespace freekv
