#include "model/convert.hpp"

#include <algorithm>
#include <array>

#include "core/check.hpp"
#include "core/quantize.hpp"
#include "io/atomic_file.hpp"
#include "io/gguf_writer.hpp"
#include "model/gguf_metadata.hpp"
#include "model/model.hpp"
#include "tokenizer/folder_spec.hpp"

namespace freekv {
namespace {

constexpr size_t kChunkBytes = size_t{4} << 20;

using Progress = std::function<bool(size_t done, size_t total)>;

/// A tensor of the new file and where its values come from, row by row.
struct Job {
  std::string name;
  std::vector<int64_t> ne;  // innermost first
  DType type;
  WeightView source;
  int paired_heads = 0;  // the rows are those of this many heads, to be reordered; 0: are not
};

/// Row of Hugging Face's order that goes to `row` of GGUF's: a head's halves become pairs.
int64_t paired_row(int64_t row, int64_t head_dim) {
  const int64_t head = row / head_dim, within = row % head_dim;
  return head * head_dim + within % 2 * (head_dim / 2) + within / 2;
}

DType matrix_type(DType wanted, int64_t cols) {
  return cols % dtype_info(wanted).block_values == 0 ? wanted : DType::kF16;
}

/// Converts and writes the tensors one after the other.
class Converter {
 public:
  Converter(ThreadPool& pool, const Progress& progress, GgufWriter& writer)
      : pool_(pool), progress_(progress), writer_(writer) {
    rows_.resize(static_cast<size_t>(pool.size()));
  }

  void run(const std::vector<Job>& jobs, const std::string& out) {
    for (const Job& job : jobs) writer_.add_tensor(job.name, job.ne, job.type);
    total_ = static_cast<size_t>(writer_.data_bytes());
    AtomicFile file(out);
    writer_.begin(file);
    for (const Job& job : jobs) write(job);
    writer_.finish();
    file.commit();
  }

 private:
  void write(const Job& job) {
    const WeightView& source = job.source;
    const size_t stride = row_bytes(job.type, source.cols);
    const auto step = static_cast<int64_t>(std::max<size_t>(1, kChunkBytes / stride));
    for (int64_t first = 0; first < source.rows; first += step) {
      const int64_t n = std::min(step, source.rows - first);
      chunk_.resize(static_cast<size_t>(n) * stride);
      pool_.parallel_for(n, 1, [&](int64_t begin, int64_t end, int worker) {
        for (int64_t i = begin; i < end; ++i) {
          write_row(job, first + i, worker, chunk_.data() + static_cast<size_t>(i) * stride);
        }
      });
      writer_.write(chunk_);
      done_ += chunk_.size();
      if (progress_ && !progress_(done_, total_)) {
        fail(ErrorCode::kCancelled, "stopped after {} of {} bytes", done_, total_);
      }
    }
  }

  void write_row(const Job& job, int64_t row, int worker, std::byte* to) {
    if (job.paired_heads > 0) row = paired_row(row, job.source.rows / job.paired_heads);
    const std::byte* from = job.source.row(row);
    if (job.type == job.source.dtype) {
      std::copy_n(from, job.source.stride(), to);
      return;
    }
    std::vector<float>& values = rows_[static_cast<size_t>(worker)];
    values.resize(static_cast<size_t>(job.source.cols));
    load_row(job.source.dtype, from, values);
    quantize_row(job.type, values, to);
  }

  ThreadPool& pool_;
  const Progress& progress_;
  GgufWriter& writer_;
  std::vector<std::vector<float>> rows_;  // by worker
  std::vector<std::byte> chunk_;
  size_t done_ = 0;
  size_t total_ = 0;
};

/// Lists the tensors of a model under their GGUF names.
class Jobs {
 public:
  Jobs(const ModelConfig& config, DType type) : config_(config), type_(type) {}

  void matrix(const std::string& name, const WeightView& source, int paired_heads = 0) {
    jobs_.push_back(
        {name, {source.cols, source.rows}, matrix_type(type_, source.cols), source, paired_heads});
  }

  /// As one value a row, so that those of q and k can be reordered like their matrix.
  void vector(const std::string& name, View<const float, 1> values, int paired_heads = 0) {
    if (!values.data()) return;
    const WeightView source{reinterpret_cast<const std::byte*>(values.data()), DType::kF32,
                            values.size(), 1};
    jobs_.push_back({name, {values.size()}, DType::kF32, source, paired_heads});
  }

  void layer(int index, const LayerWeights& w) {
    const TensorNames& names = kGgufNames;
    const auto name = [&](std::string_view part, std::string_view end = "") {
      return fmt::format("{}{}.{}{}", names.layer_prefix, index, part, end);
    };
    // The llama architecture rotates pairs in GGUF files, halves in checkpoints.
    const bool paired = config_.architecture == "llama";
    const int q_heads = paired ? config_.query_heads : 0, k_heads = paired ? config_.kv_heads : 0;
    vector(name(names.attention_norm), w.attention_norm);
    matrix(name(names.q, ".weight"), w.q, q_heads);
    vector(name(names.q, ".bias"), w.q_bias, q_heads);
    matrix(name(names.k, ".weight"), w.k, k_heads);
    vector(name(names.k, ".bias"), w.k_bias, k_heads);
    matrix(name(names.v, ".weight"), w.v);
    vector(name(names.v, ".bias"), w.v_bias);
    matrix(name(names.output, ".weight"), w.output);
    vector(name(names.output, ".bias"), w.output_bias);
    vector(name(names.q_norm), w.q_norm);
    vector(name(names.k_norm), w.k_norm);
    vector(name(names.ffn_norm), w.ffn_norm);
    matrix(name(names.gate), w.gate);
    matrix(name(names.up), w.up);
    matrix(name(names.down), w.down);
  }

  std::vector<Job> take() { return std::move(jobs_); }

 private:
  const ModelConfig& config_;
  DType type_;
  std::vector<Job> jobs_;
};

void convert_checkpoint(ThreadPool& pool, const std::string& in, const std::string& out, DType type,
                        const Progress& progress) {
  const Model model(in);
  const ModelConfig& config = model.config();
  const ModelWeights& weights = model.weights();
  GgufWriter writer;
  add_config_metadata(writer, config);
  add_type_metadata(writer, type);
  if (has_tokenizer(*model.checkpoint())) {
    with_folder_spec(
        in, [&](const TokenizerSpec& spec) { add_tokenizer_metadata(writer, spec, config.vocab); });
  }
  std::vector<float> rope_factors;
  if (config.rope.scaling == RopeScaling::kLlama3) {
    rope_factors = llama3_factors(config.rope, config.head_dim);
  }
  Jobs jobs(config, type);
  jobs.matrix(std::string(kGgufNames.embedding), weights.embedding);
  for (int i = 0; i < config.layers; ++i) {
    jobs.layer(i, weights.layers[static_cast<size_t>(i)]);
  }
  jobs.vector(std::string(kGgufNames.final_norm), weights.final_norm);
  if (!weights.tied()) jobs.matrix(std::string(kGgufNames.logits), weights.logits);
  if (!rope_factors.empty()) {
    jobs.vector(std::string(kGgufNames.rope_factors),
                View<const float, 1>(rope_factors.data(), rope_factors.size()));
  }
  Converter(pool, progress, writer).run(jobs.take(), out);
}

void convert_gguf(ThreadPool& pool, const std::string& in, const std::string& out, DType type,
                  const Progress& progress) {
  const Gguf file = Gguf::open(in).value();
  GgufWriter writer;
  for (const GgufEntry& entry : file.metadata()) {
    const auto replaced = std::to_array<std::string_view>(
        {"general.file_type", "general.quantization_version", "general.alignment"});
    if (std::ranges::find(replaced, entry.key) == replaced.end()) {
      writer.add(entry.key, entry.value);
    }
  }
  add_type_metadata(writer, type);
  std::vector<Job> jobs;
  for (const GgufTensorInfo& info : file.tensors()) {
    const GgufTensor tensor = file.tensor(info.name);
    const bool matrix = tensor.dimensions > 1 && tensor.name.ends_with("weight");
    jobs.push_back({std::string(tensor.name),
                    {tensor.ne.begin(), tensor.ne.begin() + tensor.dimensions},
                    matrix ? matrix_type(type, tensor.cols()) : tensor.dtype,
                    {tensor.data, tensor.dtype, tensor.rows(), tensor.cols()}});
  }
  Converter(pool, progress, writer).run(jobs, out);
}

}  // namespace

void convert_model(ThreadPool& pool, const std::string& in, const std::string& out, DType type,
                   const Progress& progress) {
  check_argument(can_quantize(type), "type {} cannot be written", dtype_name(type));
  if (is_folder(in)) {
    convert_checkpoint(pool, in, out, type, progress);
  } else {
    convert_gguf(pool, in, out, type, progress);
  }
}

}  // namespace freekv
