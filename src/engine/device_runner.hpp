// Runs whole steps on a device: the backend's library has model, caches and policy there.
#pragma once

#include <memory>

#include "backends/device_library.hpp"
#include "engine/runner.hpp"
#include "freekv/engine.hpp"
#include "model/model.hpp"
#include "policies/policy.hpp"

namespace freekv {

/// `options` are complete. Uploads the model's weights, or uses those that `like` has uploaded when
/// it is such a runner of the same model file. Throws Error(kUnsupported) naming a policy or a
/// feature of the model that runs on the host only, Error(kDevice) when the device refuses.
std::unique_ptr<Runner> make_device_runner(const DeviceLibrary& library, const Model& model,
                                           const Policy& policy, const EngineOptions& options,
                                           const LoadProgress& on_load, const Runner* like);

}  // namespace freekv
