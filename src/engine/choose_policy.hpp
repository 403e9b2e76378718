// The policy "auto": dense attention or retrieval, by sizes alone.
#pragma once

#include <string>

#include "freekv/options.hpp"
#include "model/config.hpp"

namespace freekv {

struct PolicyChoice {
  std::string policy;  // what make_policy() takes
  std::string note;    // why, in one line
};

/// "auto" or "auto:key=value,...".
bool is_auto_policy(const std::string& policy);

/// For such a policy: full while the KV of a whole batch fits the fast tier, which may take
/// `fast_bytes`, and contexts are short enough for dense attention to be the faster one; else
/// freekv with those keys.
PolicyChoice choose_policy(const EngineOptions& options, const ModelConfig& config,
                           size_t fast_bytes);

}  // namespace freekv
