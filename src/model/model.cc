#include "model/model.hpp"

namespace freekv {

Model::Model(const std::string& path)
    : file_(Gguf::open(path).value()),
      config_(read_config(file_)),
      weights_(read_weights(file_, config_)),
      rope_(config_, weights_.rope_factors) {}

}  // namespace freekv
