// A loaded model: its file, shape, tensors and rotary frequencies.
#pragma once

#include <memory>
#include <string>

#include "io/gguf.hpp"
#include "model/config.hpp"
#include "model/rope.hpp"
#include "model/weights.hpp"

namespace freekv {

class Model {
 public:
  /// Maps and checks the file. Throws Error naming the file and what is wrong with it.
  explicit Model(const std::string& path);

  const Gguf& file() const { return file_; }
  const ModelConfig& config() const { return config_; }
  const ModelWeights& weights() const { return weights_; }
  const RopeFrequencies& rope() const { return rope_; }

 private:
  Gguf file_;
  ModelConfig config_;
  ModelWeights weights_;
  RopeFrequencies rope_;
};

}  // namespace freekv
