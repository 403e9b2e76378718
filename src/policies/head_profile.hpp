// Which heads of a model look things up: a measurement of each query head's attention over random
// text that repeats (RazorAttention, arXiv 2407.15891, section 3.1). Kept as a JSON file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "kvcache/cache_config.hpp"

namespace freekv {

struct HeadProfile {
  std::string model;  // general.name of the model that was measured
  int layers = 0;
  int query_heads = 0;
  int kv_heads = 0;
  std::vector<float> echo;       // [layers][H]: mean attention on earlier copies of the token
  std::vector<float> induction;  // [layers][H]: on the tokens that followed these copies
};

/// Throws Error(kParse) in one line that names `file`, the field and both values.
HeadProfile parse_head_profile(const std::string& file, std::string_view json);
/// Reads a file; throws Error(kIo) when that fails, else as parse_head_profile().
HeadProfile read_head_profile(const std::string& file);
std::string format_head_profile(const HeadProfile& profile);
/// That of models/freekv-demo.gguf.
HeadProfile demo_head_profile();

/// Throws Error(kInvalidArgument) with both shapes unless the profile is of a model of this shape.
void check_profile_shape(const HeadProfile& profile, const CacheConfig& config);

/// [layers][M]: 1 for KV heads that keep everything. Those of highest induction score, `induction`
/// of all rounded up, and those of highest echo score, `echo` of all; a KV head scores what the
/// best of its group does. Of equals the lower goes first.
std::vector<uint8_t> retrieval_heads(const HeadProfile& profile, double induction, double echo);

}  // namespace freekv
