#include "backends/cuda/device_model.hpp"

#include <algorithm>

#include "backends/cuda/page_map.hpp"
#include "core/check.hpp"

namespace freekv::cuda {
namespace {

// Sequences that may be open beside those of a batch: a program opens the next before it lets go of
// the last. Each costs a row of activations.
constexpr int kSpareSequences = 4;

template <typename... Args>
void check_supported(bool holds, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) fail(ErrorCode::kUnsupported, format, std::forward<Args>(args)...);
}

void check_spec(const DeviceModelSpec& spec) {
  const KvShape& kv = spec.kv;
  check_supported(kv.dtype == DType::kF16 || kv.dtype == DType::kBF16,
                  "kv type is {}, backend cuda runs F16 and BF16", dtype_name(kv.dtype));
  constexpr int kDims[] = {64, 80, 96, 128, 256};
  check_supported(std::find(std::begin(kDims), std::end(kDims), kv.head_dim) != std::end(kDims),
                  "head dimension is {}, backend cuda runs 64, 80, 96, 128 and 256", kv.head_dim);
  check_supported(kv.page == 16 || kv.page == 32 || kv.page == 64,
                  "page is {}, backend cuda runs 16, 32 and 64", kv.page);
  const int group = spec.query_heads / kv.heads;
  check_supported(group <= 16, "{} query heads share a KV head, backend cuda runs at most 16",
                  group);
  for (const int width : {spec.hidden, spec.ffn}) {
    check_supported(width % 8 == 0, "a matrix has {} columns, backend cuda runs multiples of 8",
                    width);
  }
}

DecoderShape shape_of(const DeviceModelSpec& spec) {
  return {.layers = static_cast<int32_t>(spec.layers.size()),
          .hidden = spec.hidden,
          .ffn = spec.ffn,
          .vocab = static_cast<int32_t>(spec.vocab),
          .norm_eps = spec.norm_eps,
          .rope = spec.rope_style == RopeStyle::kHalves ? Rope::kHalves : Rope::kInterleaved,
          .rope_scale = spec.rope_scale,
          .kv = {.kv_heads = spec.kv.heads,
                 .group = spec.query_heads / spec.kv.heads,
                 .head_dim = spec.kv.head_dim,
                 .page = spec.kv.page,
                 .type = spec.kv.dtype == DType::kF16 ? KvType::kF16 : KvType::kBF16}};
}

std::shared_ptr<UploadedWeights> weights_of(const DeviceModelSpec& spec) {
  if (!spec.uploaded) return std::make_shared<UploadedWeights>(spec);
  auto shared = std::dynamic_pointer_cast<UploadedWeights>(spec.uploaded);
  check_internal(shared != nullptr, "weights of another device are shared with {}", "cuda");
  return shared;
}

DeviceModelSpec sizes_of(const DeviceModelSpec& spec) {
  DeviceModelSpec sizes = spec;
  sizes.uploaded = nullptr;
  sizes.on_load = nullptr;
  return sizes;
}

}  // namespace

DeviceInfo describe_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaErrorInsufficientDriver) {
    fail(ErrorCode::kDevice, "the NVIDIA driver is missing or older than CUDA {}.{} needs",
         CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    fail(ErrorCode::kDevice, "the NVIDIA driver finds no GPU");
  }
  check_cuda(status, "the NVIDIA driver");
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, 0), "the GPU");
  DeviceInfo info{properties.name, 0, 0};
  if (properties.major < 8) {
    fail(ErrorCode::kDevice, "{} is of compute capability {}.{}, 8.0 or newer is needed", info.name,
         properties.major, properties.minor);
  }
  check_cuda(cudaMemGetInfo(&info.free_bytes, &info.total_bytes), "the memory of the GPU");
  return info;
}

// The device is looked at before anything is made on it, an event among the members too: what is
// missing is said in words, not by the first call that fails.
CudaModel::CudaModel(const DeviceModelSpec& spec)
    : info_(describe_device()), spec_(sizes_of(spec)) {
  check_spec(spec);
  weights_ = weights_of(spec);
  decoder_ = std::make_unique<Decoder>(shape_of(spec), weights_->weights(), spec.rule,
                                       page_map(spec.pages),
                                       DecoderLimits{spec.max_batch + kSpareSequences, spec.context,
                                                     spec.threads, weights_->slow()});
  prefill_ = std::make_unique<Prefill>(shape_of(spec), weights_->weights(),
                                       PrefillLimits{.tokens = spec.context});
  logits_ = PinnedBuffer(
      static_cast<size_t>(spec.max_batch) * static_cast<size_t>(spec.vocab) * sizeof(float), 1);
}

CudaModel::~CudaModel() = default;

template <typename Body>
auto CudaModel::guarded(Body&& body) const {
  if (lost_) fail(ErrorCode::kDevice, "{} is lost since: {}", info_.name, *lost_);
  try {
    return body();
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kDevice) lost_ = error.message();
    throw;
  }
}

DeviceModel::Footprint CudaModel::footprint(int64_t context) const {
  const Decoder::Footprint size = decoder_->footprint(context);
  return {size.fast, size.slow, size.sketch + size.tables};
}

void CudaModel::check_room(int64_t context) const {
  const Footprint size = footprint(context);
  const auto require = [&](const char* what, size_t needed, const char* limit, size_t given) {
    if (needed <= given) return;
    fail(ErrorCode::kOutOfMemory, "{} needs {} bytes for a context of {} tokens, {} {}", what,
         needed, context, limit, given);
  };
  require("the fast tier", size.fast, "its limit is", spec_.fast_limit_bytes);
  require("the slow tier", size.slow, "its limit is", spec_.slow_limit_bytes);
  size_t free = 0, total = 0;
  check_cuda(cudaMemGetInfo(&free, &total), "the memory of the GPU");
  require("a sequence's device memory", size.fast + size.sketch, "free are", free);
  // What the host has is asked by SequenceMemory, before it takes anything.
}

int32_t CudaModel::open(int64_t context) {
  return guarded([&] {
    check_room(context);
    return decoder_->open(context);
  });
}

void CudaModel::close(int32_t sequence) noexcept {
  if (lost_) return;  // what it holds goes with the decoder
  try {
    decoder_->close(sequence);
  } catch (const Error& error) {
    lost_ = error.message();
  }
}

int64_t CudaModel::tokens(int32_t sequence) const { return decoder_->tokens(sequence); }

View<const float, 2> CudaModel::fetch_logits(int64_t n) {
  const size_t bytes = static_cast<size_t>(n) * static_cast<size_t>(spec_.vocab) * sizeof(float);
  check_cuda(cudaMemcpyAsync(logits_.data(), decoder_->logits(), bytes, cudaMemcpyDeviceToHost,
                             decoder_->stream()),
             "the logits");
  if (spec_.max_batch == 1) {
    check_cuda(cudaStreamSynchronize(decoder_->stream()), "a step");
  } else {  // many sequences: their other work, and other processes, can use this core
    fetched_.record(decoder_->stream());
    check_cuda(cudaEventSynchronize(fetched_), "a step");
  }
  return View<const float, 2>(reinterpret_cast<const float*>(logits_.data()), n, spec_.vocab);
}

View<const float, 1> CudaModel::prefill(int32_t sequence, std::span<const int32_t> ids,
                                        const std::function<bool(int64_t)>& proceed,
                                        const DevicePrefix& prefix, const DeviceQueries& queries) {
  return guarded([&] {
    auto* logits = reinterpret_cast<float*>(logits_.data());
    KvPrefix from;
    if (prefix.tokens > 0) {
      const auto* model = dynamic_cast<const CudaModel*>(prefix.model);
      check_internal(model != nullptr, "a prefix of another device is given to {}", "cuda");
      from = {model->decoder_.get(), prefix.sequence, prefix.tokens};
    }
    prefill_->run(*decoder_, sequence, ids, proceed, logits, from, queries);
    const bool whole = prefix.tokens == static_cast<int64_t>(ids.size());
    return View<const float, 1>(logits, whole ? 0 : spec_.vocab);
  });
}

View<const float, 2> CudaModel::decode(std::span<const int32_t> sequences,
                                       std::span<const int32_t> ids) {
  return guarded([&] {
    decoder_->step(sequences, ids);
    return fetch_logits(static_cast<int64_t>(sequences.size()));
  });
}

void CudaModel::read_tokens(int32_t sequence, int32_t layer, int64_t first, View<float, 3> k,
                            View<float, 3> v) const {
  guarded([&] { reader_.read(*decoder_, sequence, layer, first, k, v); });
}

void CudaModel::counters(int32_t sequence, std::span<LayerCounters> out) const {
  guarded([&] {
    const std::vector<RowCounters> layers = decoder_->layer_counters(sequence);
    for (size_t l = 0; l < out.size(); ++l) {
      const RowCounters& from = layers.at(l);
      out[l] = {from.selections, from.pages_selected, from.misses_before, from.misses_after,
                from.tested,     from.drifted,        from.lost_mass};
    }
  });
}

}  // namespace freekv::cuda
