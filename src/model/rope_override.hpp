// A model's rotary position embedding, stretched otherwise than its file says.
#pragma once

#include "freekv/options.hpp"
#include "model/config.hpp"

namespace freekv {

/// What read_config() gave, with the rope and the context that the options ask for. A tensor of
/// frequency divisors in a file is no part of it and goes on counting. Throws
/// Error(kInvalidArgument) that names an option outside its range, or what it lacks.
ModelConfig override_rope(ModelConfig config, const RopeOptions& options);

}  // namespace freekv
