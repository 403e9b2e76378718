// What `freekv bench --shape` asks of a device: how long steps and prompts take of a model with the
// sizes of a known one, whose weights and KV are made up where they are used. Like device_model.hpp
// plain data in and out, without the device's toolkit.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backends/device_model.hpp"

namespace freekv {

/// Sizes of a model. Every layer is the same; the embedding is also the last product's matrix.
struct SyntheticShape {
  int layers = 0;
  int hidden = 0;       // D
  int ffn = 0;          // F
  int query_heads = 0;  // H
  int vocab = 0;        // V
  KvShape kv;           // M, d, p, dtype
  float rope_base = 1e4f;
  bool qkv_bias = false;
  bool head_norms = false;  // of q and k
};

/// What holds the KV of a benchmark: the rule of a policy, and sizes.
struct BenchCache {
  RetrievalRule rule;
  DevicePages pages;
  int64_t room = 0;  // most tokens of a sequence, no fewer than any run needs
  int threads = 1;   // host threads that touch memory
};

/// Decoding `batch` sequences together, whose caches are filled directly.
struct DecodeRun {
  int64_t context = 0;  // tokens in the cache before the first step
  int batch = 1;
  int warmup = 8;
  int steps = 64;  // at most, in each of three rounds
  /// Told what all sequences together are going to take, before they do. May be empty.
  std::function<void(const DeviceModel::Footprint& size)> announce;
  /// Tokens that a sequence may have by the end, the timer's own warm-up included.
  int64_t room() const { return context + warmup + 4 * int64_t{steps} + 64; }
};
struct DecodeTimes {
  double ms = 0;                        // of a step of the whole batch: the median of the rounds
  int steps = 0;                        // counted below
  DeviceModel::Footprint size;          // of all sequences
  DeviceModel::LayerCounters counters;  // over `steps`, all layers, heads and sequences
};

struct PrefillRun {
  int64_t tokens = 0;
  int chunk = 8192;  // tokens computed together
  int rounds = 3;
};
struct PrefillTimes {
  double ms = 0;                 // the median of the rounds
  size_t peak_device_bytes = 0;  // used on the device while it runs, by everything
  size_t prefill_bytes = 0;      // of them beside weights and sequence, as worked out beforehand
  size_t slow_kv_bytes = 0;
};

/// A model with synthetic weights on the device. Used by one thread; throws Error as DeviceModel.
class BenchModel {
 public:
  virtual ~BenchModel() = default;

  struct Weights {
    size_t bytes = 0;
    double read_ms = 0;  // of reading them once, as fast as the device can
  };
  virtual Weights weights() const = 0;

  // Before anything is timed. Both throw Error(kInternal) with the difference where it is too
  // large.
  /// `sparse`, within its budget, gives the logits of `dense`. Returns the largest difference as a
  /// share of the largest logit.
  virtual double check_decode(const BenchCache& dense, const BenchCache& sparse) = 0;
  /// A prompt in several chunks gives the logits of its tokens one by one, and decoding goes on
  /// from it. Differences are root mean squares as a share of the logits' own.
  struct PrefillDifference {
    double of_prompt = 0;
    double of_next_step = 0;
  };
  virtual PrefillDifference check_prefill(const BenchCache& cache) = 0;

  virtual DecodeTimes time_decode(const BenchCache& cache, const DecodeRun& run) = 0;
  virtual PrefillTimes time_prefill(const BenchCache& cache, const PrefillRun& run) = 0;
};

/// What figures were measured on.
struct BenchMachine {
  std::string gpu;
  size_t memory_bytes = 0;
  int sms = 0;  // multiprocessors
  std::string compute_capability;
  std::string driver;
  int driver_cuda = 0;   // newest CUDA that the driver is good for, as CUDA counts it: 13000
  int runtime_cuda = 0;  // the CUDA of this library
};

/// Recall alone: `total_bytes` of head pages of random places in a gigabyte of pinned memory.
struct GatherRun {
  KvShape kv;
  size_t total_bytes = 0;
  std::vector<int> ctas;
};
struct GatherRate {
  std::string kernel;
  int ctas = 0;
  double GB_s = 0;
};

class DeviceBench {
 public:
  virtual ~DeviceBench() = default;
  virtual BenchMachine machine() const = 0;
  /// GB/s of contiguous copies of 256 MiB from pinned memory to the device.
  virtual double link_GB_s() const = 0;
  /// Throws Error(kUnsupported) naming what the kernels do not run, kOutOfMemory with both byte
  /// counts where the weights do not fit.
  virtual std::unique_ptr<BenchModel> make_model(const SyntheticShape& shape) const = 0;
  /// Kernel by kernel, checked before it is timed; each at every number of CTAs.
  virtual std::vector<GatherRate> time_gather(const GatherRun& run) const = 0;
};

}  // namespace freekv
