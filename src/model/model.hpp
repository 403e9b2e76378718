// A loaded model: its files, shape, tensors and rotary frequencies.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/thread_pool.hpp"
#include "freekv/options.hpp"
#include "io/checkpoint.hpp"
#include "io/gguf.hpp"
#include "model/config.hpp"
#include "model/rope.hpp"
#include "model/weights.hpp"

namespace freekv {

class Model {
 public:
  /// Maps and checks a GGUF file or a checkpoint folder; reads headers only. Throws Error naming
  /// the file and what is wrong with it, or the rope option that does not fit.
  explicit Model(const std::string& path, const RopeOptions& rope = {});
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  /// Reads the weights into the page cache, on all workers. Memory is what the files map and no
  /// more: no tensor is copied but the norms and biases. `progress(done, total)` is called in
  /// bytes from this thread; returning false throws Error(kCancelled).
  void load(ThreadPool& pool, const std::function<bool(size_t done, size_t total)>& progress) const;

  /// What it was made from: one of the two, the other is null.
  const Gguf* gguf() const { return gguf_ ? &*gguf_ : nullptr; }
  const Checkpoint* checkpoint() const { return checkpoint_ ? &*checkpoint_ : nullptr; }
  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }
  const RopeFrequencies& rope() const { return rope_; }

 private:
  std::optional<Gguf> gguf_;
  std::optional<Checkpoint> checkpoint_;
  ModelConfig config_;
  ModelWeights weights_;
  RopeFrequencies rope_;
};

}  // namespace freekv
