#include "backends/cuda/device_weights.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "backends/cpu/dequantize.hpp"
#include "core/check.hpp"
#include "core/thread_pool.hpp"

namespace freekv::cuda {
namespace {

constexpr size_t kStagingBytes = size_t{4} << 20;
constexpr size_t kValueBytes = 2;  // bf16
// These convert as fast as the link takes it; each more costs time to lock its buffers.
constexpr int kMostThreads = 16;

size_t device_bytes(const WeightView& matrix) {
  return static_cast<size_t>(matrix.rows) * static_cast<size_t>(matrix.cols) * kValueBytes;
}

/// Rows of one matrix, and where they go.
struct Block {
  const WeightView* matrix = nullptr;
  int64_t first = 0;
  int64_t rows = 0;
  std::byte* to = nullptr;
  size_t file_bytes() const { return matrix->stride() * static_cast<size_t>(rows); }
};

/// The matrices of a model in the order in which the device has them: those that are multiplied
/// by the same input follow one another and are one matrix there.
std::vector<const WeightView*> matrices_of(const DeviceModelSpec& spec) {
  std::vector<const WeightView*> all{&spec.embedding};
  if (spec.logits.data != spec.embedding.data) all.push_back(&spec.logits);
  for (const LayerWeights& w : spec.layers) {
    for (const WeightView* matrix : {&w.q, &w.k, &w.v, &w.output, &w.gate, &w.up, &w.down}) {
      all.push_back(matrix);
    }
  }
  return all;
}

void convert_rows(const Block& block, std::vector<float>& row, std::byte* out) {
  const WeightView& matrix = *block.matrix;
  if (matrix.dtype == DType::kBF16) {
    std::memcpy(out, matrix.row(block.first), block.file_bytes());
    return;
  }
  row.resize(static_cast<size_t>(matrix.cols));
  auto* values = reinterpret_cast<uint16_t*>(out);
  for (int64_t r = 0; r < block.rows; ++r) {
    cpu::dequantize(matrix, block.first + r, 0, row);
    for (const float value : row) *values++ = f32_to_bf16(value);
  }
}

/// One of a worker's two buffers: filled while the other is copied.
struct Staging {
  PinnedBuffer memory{kStagingBytes, 1};
  Event copied;
  bool used = false;
};

/// What one worker brings to the device, block after block.
class Uploader {
 public:
  void upload(const Block& block) {
    Staging& staging = staging_[turn_ ^= 1];
    if (staging.used) check_cuda(cudaEventSynchronize(staging.copied), "the upload of weights");
    convert_rows(block, row_, staging.memory.data());
    const size_t bytes = static_cast<size_t>(block.rows * block.matrix->cols) * kValueBytes;
    check_cuda(
        cudaMemcpyAsync(block.to, staging.memory.data(), bytes, cudaMemcpyHostToDevice, stream_),
        "the upload of weights");
    staging.copied.record(stream_);
    staging.used = true;
  }
  void finish() const { stream_.synchronize(); }

 private:
  Stream stream_;
  Staging staging_[2];
  size_t turn_ = 0;
  std::vector<float> row_;
};

std::vector<Block> blocks_of(const std::vector<const WeightView*>& matrices, std::byte* to) {
  std::vector<Block> blocks;
  for (const WeightView* matrix : matrices) {
    const size_t row = static_cast<size_t>(matrix->cols) * kValueBytes;
    check_argument(row <= kStagingBytes, "a weight matrix has {} columns, at most {} are possible",
                   matrix->cols, kStagingBytes / kValueBytes);
    const auto most = static_cast<int64_t>(kStagingBytes / row);
    for (int64_t first = 0; first < matrix->rows; first += most) {
      const int64_t rows = std::min(most, matrix->rows - first);
      blocks.push_back({matrix, first, rows, to + static_cast<size_t>(first) * row});
    }
    to += device_bytes(*matrix);
  }
  return blocks;
}

void upload(const DeviceModelSpec& spec, std::vector<Block> blocks) {
  size_t total = 0;
  for (const Block& block : blocks) total += block.file_bytes();
  // In the order of the files, which may have to be read from a disk.
  std::sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) {
    return a.matrix->row(a.first) < b.matrix->row(b.first);
  });
  std::atomic<size_t> next{0}, done{0};
  std::atomic<bool> cancelled{false};
  ThreadPool pool(std::min(spec.threads, kMostThreads));
  pool.run([&](int worker) {
    Uploader uploader;
    while (!cancelled) {
      const size_t i = next.fetch_add(1);
      if (i >= blocks.size()) break;
      uploader.upload(blocks[i]);
      const size_t bytes = done.fetch_add(blocks[i].file_bytes()) + blocks[i].file_bytes();
      if (worker == 0 && spec.on_load && !spec.on_load(bytes, total)) cancelled = true;
    }
    uploader.finish();
  });
  if (cancelled) {
    fail(ErrorCode::kCancelled, "stopped loading after {} of {} bytes", done.load(), total);
  }
  if (spec.on_load) spec.on_load(total, total);
}

/// The model's vectors, one after another, and where each begins. Every vector begins at a multiple
/// of 16 bytes.
class Vectors {
 public:
  static constexpr size_t kNone = SIZE_MAX;

  size_t add(std::span<const float> values) {
    if (values.empty()) return kNone;
    const size_t at = values_.size();
    values_.insert(values_.end(), values.begin(), values.end());
    while (values_.size() % 4 != 0) values_.push_back(0);
    return at;
  }
  size_t add(View<const float, 1> values) { return values.data() ? add(values.flat()) : kNone; }
  /// q, k and v follow one another; a layer may have biases of some of them.
  size_t add_fused(const LayerWeights& w) {
    if (!w.q_bias.data() && !w.k_bias.data() && !w.v_bias.data()) return kNone;
    std::vector<float> fused(static_cast<size_t>(w.q.rows + w.k.rows + w.v.rows));
    auto at = fused.begin();
    const auto put = [&](View<const float, 1> bias, int64_t size) {
      if (bias.data()) std::copy_n(bias.data(), size, at);
      at += size;
    };
    put(w.q_bias, w.q.rows);
    put(w.k_bias, w.k.rows);
    put(w.v_bias, w.v.rows);
    return add(std::span<const float>(fused));
  }
  const std::vector<float>& values() const { return values_; }

 private:
  std::vector<float> values_;
};

}  // namespace

size_t UploadedWeights::bytes(const DeviceModelSpec& spec) {
  size_t sum = 0;
  for (const WeightView* matrix : matrices_of(spec)) sum += device_bytes(*matrix);
  return sum;
}

UploadedWeights::UploadedWeights(const DeviceModelSpec& spec) : matrices_(bytes(spec)) {
  upload(spec, blocks_of(matrices_of(spec), matrices_.data()));

  Vectors vectors;
  struct Places {
    size_t attention_norm, qkv_bias, q_norm, k_norm, output_bias, ffn_norm;
  };
  std::vector<Places> places;
  for (const LayerWeights& w : spec.layers) {
    places.push_back({vectors.add(w.attention_norm), vectors.add_fused(w), vectors.add(w.q_norm),
                      vectors.add(w.k_norm), vectors.add(w.output_bias), vectors.add(w.ffn_norm)});
  }
  const size_t final_norm = vectors.add(spec.final_norm);
  const size_t frequencies = vectors.add(spec.frequencies);
  vectors_ = device_array<float>(vectors.values().size());
  check_cuda(cudaMemcpy(vectors_.data(), vectors.values().data(), vectors_.bytes(),
                        cudaMemcpyHostToDevice),
             "the upload of norms and biases");
  // That returns when the values are out of host memory, not when they are in place, and the
  // decoder's streams do not wait for the default one.
  check_cuda(cudaStreamSynchronize(cudaStreamLegacy), "the upload of norms and biases");

  const auto vector = [&](size_t at) -> const float* {
    return at == Vectors::kNone ? nullptr : vectors_.as<float>() + at;
  };
  const std::byte* at = matrices_.data();
  const auto take = [&](std::initializer_list<const WeightView*> parts) {
    const std::byte* first = at;
    for (const WeightView* part : parts) at += device_bytes(*part);
    return first;
  };
  weights_.embedding = take({&spec.embedding});
  weights_.logits =
      spec.logits.data == spec.embedding.data ? weights_.embedding : take({&spec.logits});
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    const LayerWeights& w = spec.layers[l];
    DecoderLayer layer;
    layer.attention_norm = vector(places[l].attention_norm);
    layer.qkv = take({&w.q, &w.k, &w.v});
    layer.qkv_bias = vector(places[l].qkv_bias);
    layer.q_norm = vector(places[l].q_norm);
    layer.k_norm = vector(places[l].k_norm);
    layer.output = take({&w.output});
    layer.output_bias = vector(places[l].output_bias);
    layer.ffn_norm = vector(places[l].ffn_norm);
    layer.gate_up = take({&w.gate, &w.up});
    layer.down = take({&w.down});
    weights_.layers.push_back(layer);
  }
  weights_.final_norm = vector(final_norm);
  weights_.frequencies = vector(frequencies);
}

}  // namespace freekv::cuda
