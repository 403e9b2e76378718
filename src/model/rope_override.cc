#include "model/rope_override.hpp"

#include <cmath>

#include "core/check.hpp"
#include "model/config_source.hpp"

namespace freekv {
namespace {

const char* name_of(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone:
      return "none";
    case RopeScaling::kLinear:
      return "linear";
    case RopeScaling::kDynamic:
      return "dynamic";
    case RopeScaling::kLlama3:
      return "llama3";
    case RopeScaling::kYarn:
      return "yarn";
  }
  return "?";
}

RopeScaling parse_scaling(const std::string& name) {
  for (const RopeScaling scaling : {RopeScaling::kNone, RopeScaling::kLinear, RopeScaling::kYarn}) {
    if (name == name_of(scaling)) return scaling;
  }
  fail(ErrorCode::kInvalidArgument, "rope scaling is \"{}\", must be none, linear or yarn", name);
}

void check_ranges(const RopeOptions& options) {
  check_argument(options.scale == 0 || (options.scale >= 1 && std::isfinite(options.scale)),
                 "rope scale is {}, must be 1 or more and finite", options.scale);
  check_argument(options.freq_base >= 0 && std::isfinite(options.freq_base),
                 "rope freq base is {}, must be above 0 and finite", options.freq_base);
  check_argument(options.yarn_orig_ctx >= 0 && options.yarn_orig_ctx <= kMaxSize,
                 "yarn orig ctx is {}, must be 1 to {}", options.yarn_orig_ctx, kMaxSize);
}

/// Whether the options fit the scaling that is going to be, and it has what it needs.
void check_scaling(const RopeOptions& options, RopeScaling scaling, const RopeConfig& file) {
  const bool yarn = scaling == RopeScaling::kYarn;
  check_argument(options.scale == 0 || yarn || scaling == RopeScaling::kLinear,
                 "rope scale is {}, needs the rope scaling linear or yarn, which is {}",
                 options.scale, name_of(scaling));
  check_argument(options.yarn_orig_ctx == 0 || yarn,
                 "yarn orig ctx is {}, needs the rope scaling yarn, which is {}",
                 options.yarn_orig_ctx, name_of(scaling));
  const bool no_factor = options.scale == 0 && file.scaling == RopeScaling::kNone;
  check_argument(scaling == RopeScaling::kNone || !no_factor,
                 "rope scaling is {}, needs a rope scale, of which the model has none",
                 name_of(scaling));
}

}  // namespace

ModelConfig override_rope(ModelConfig config, const RopeOptions& options) {
  check_ranges(options);
  RopeConfig& rope = config.rope;
  if (options.freq_base != 0) rope.base = options.freq_base;
  const RopeScaling scaling =
      options.scaling.empty() ? rope.scaling : parse_scaling(options.scaling);
  check_scaling(options, scaling, rope);
  // YaRN divides by the logarithm of the base.
  check_argument(options.freq_base == 0 || scaling != RopeScaling::kYarn || rope.base > 1,
                 "rope freq base is {}, must be above 1 for the rope scaling yarn", rope.base);
  if (options.scaling.empty() && options.scale == 0 && options.yarn_orig_ctx == 0) return config;

  const auto implied = [&] { return yarn_attention_factor(static_cast<double>(rope.factor)); };
  // What a file that declares yarn puts on top of the stretch stays with any stretch.
  const float extra = rope.scaling == RopeScaling::kYarn ? rope.attention_factor / implied() : 1;
  // The context before scaling; that of a file that declares none is all there is.
  config.context_length = rope.original_context;
  rope.scaling = scaling;
  if (options.scale != 0) rope.factor = options.scale;
  if (scaling == RopeScaling::kNone) rope.factor = 1;
  if (options.yarn_orig_ctx != 0) rope.original_context = options.yarn_orig_ctx;
  rope.attention_factor = scaling == RopeScaling::kYarn ? extra * implied() : 1;
  stretch_context(config);
  return config;
}

}  // namespace freekv
