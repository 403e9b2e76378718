// What a caller can choose when an engine is made and when text is sampled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace freekv {

/// How rotary position embedding is stretched, where not as the model's file says; names and
/// meanings are llama.cpp's.
struct RopeOptions {
  std::string scaling = {};   // none, linear or yarn; empty: the file's
  float scale = 0;            // 1 or more, by which linear or yarn stretches; 0: the file's
  float freq_base = 0;        // base of the frequencies, theta; 0: the file's
  int64_t yarn_orig_ctx = 0;  // tokens that yarn takes the model to be made for; 0: the file's

  bool operator==(const RopeOptions&) const = default;
};

struct EngineOptions {
  std::string model;  // a GGUF file or a checkpoint folder
  // NAME or NAME:key=value,key=value. auto: full while dense attention fits the fast tier and is
  // taken to be the faster, else freekv, which the keys are then for.
  std::string policy = "full";
  std::string backend = "cpu";  // cpu, cuda, or reference: the scalar oracle
  std::string kv_type = "f16";  // f32, f16 or bf16; on cuda f16 or bf16
  // Of decode's linear layers: f32, int8 (rounded to 8 bits for weights whose dot products take
  // that), or auto (int8 for Q4_0, Q4_K, Q5_K and Q6_K, f32 for Q8_0).
  std::string activations = "auto";
  int64_t context = 0;          // most tokens of a sequence; 0 takes the model's
  int64_t budget = 2048;        // B, tokens attended per step = sink + window + selected
  int64_t sink = 128;           // S
  int64_t window = 128;         // W
  int page = 32;                // p, tokens per page
  int threads = 0;              // 0 takes the machine's
  int max_batch = 1;            // sequences decoded together
  int chunk = 512;              // tokens of a prefill chunk on the host
  size_t device_kv = SIZE_MAX;  // bytes of the fast tier, all sequences
  size_t host_kv = SIZE_MAX;    // bytes of the slow tier, all sequences
  RopeOptions rope;             // stretches the model's context
};

/// Applied in this order: repetition penalty, top-k, top-p, min-p, temperature.
struct SamplingOptions {
  float temperature = 0;         // 0: greedy
  int top_k = 0;                 // 0: off
  float top_p = 1;               // 1: off
  float min_p = 0;               // 0: off
  float repetition_penalty = 1;  // 1: off
  int repetition_window = 64;    // last tokens that the penalty looks at
  uint64_t seed = 0;
};

}  // namespace freekv
