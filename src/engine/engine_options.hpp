// Options of an engine, checked and completed by what its model is.
#pragma once

#include "backends/activations.hpp"
#include "freekv/options.hpp"
#include "kvcache/cache_config.hpp"
#include "model/config.hpp"

namespace freekv {

/// Throws Error(kInvalidArgument) that names an option and its value.
Activations parse_activations(const std::string& name);

/// Replaces zeros by what the model and the machine have. Throws Error(kInvalidArgument) that names
/// an option outside its range.
EngineOptions complete_options(EngineOptions options, const ModelConfig& config);

/// The cache of one sequence of `context` tokens; limits are shared out among the batch.
CacheConfig cache_config(const EngineOptions& options, const ModelConfig& config, int64_t context);

}  // namespace freekv
