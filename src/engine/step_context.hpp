// What one step of the engine works with: borrowed for the length of a call.
#pragma once

#include "backends/backend.hpp"
#include "engine/workspace.hpp"
#include "model/model.hpp"
#include "policies/policy.hpp"

namespace freekv {

struct StepContext {
  ExecutionContext& ctx;
  Backend& backend;
  const Model& model;
  Policy& policy;
  Workspace& workspace;
};

}  // namespace freekv
