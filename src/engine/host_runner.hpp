// Runs the decode step over a backend's operations, with the caches in host memory.
#pragma once

#include <memory>

#include "engine/runner.hpp"
#include "freekv/engine.hpp"
#include "model/model.hpp"
#include "policies/policy.hpp"

namespace freekv {

/// For the backends cpu and reference; `options` are complete. Loads the model's weights last,
/// since that takes long and nothing can be wrong after it. `model` and `policy` outlive the
/// runner.
std::unique_ptr<Runner> make_host_runner(const Model& model, Policy& policy,
                                         const EngineOptions& options, const LoadProgress& on_load);

}  // namespace freekv
