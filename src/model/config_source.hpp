// What reading a configuration has in common, whatever the file calls its fields.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "freekv/error.hpp"
#include "model/config.hpp"

namespace freekv {

/// Of every size in a configuration, which keeps products of sizes in range.
inline constexpr int64_t kMaxSize = int64_t{1} << 24;

/// Numbers by key; a value of the wrong type is an Error that names file and key.
class ConfigSource {
 public:
  virtual ~ConfigSource() = default;
  virtual const std::string& file() const = 0;
  /// The key as an error shows it.
  virtual std::string label(const std::string& key) const = 0;
  virtual std::optional<uint64_t> find_u64(const std::string& key) const = 0;
  virtual std::optional<double> find_number(const std::string& key) const = 0;

  /// 1 to kMaxSize. Without a fallback the key must be there.
  int read_size(const std::string& key, std::optional<int64_t> fallback = {}) const;
  /// Finite and above 0, also as float.
  float read_positive(const std::string& key, std::optional<double> fallback = {}) const;

  template <typename... Args>
  [[noreturn]] void refuse(ErrorCode code, fmt::format_string<Args...> format,
                           Args&&... args) const {
    throw Error(code, fmt::format(format, std::forward<Args>(args)...), file());
  }
};

/// The keys of a model's sizes in one kind of file.
struct ShapeKeys {
  std::string layers, hidden, ffn, query_heads, kv_heads, head_dim, context, norm_eps;
  double norm_eps_default = 1e-5;  // where the file gives none
};

/// Reads the sizes and checks that they fit together.
void read_shape(const ConfigSource& source, const ShapeKeys& keys, ModelConfig& config);

/// How far scaling stretches the context the file declares: `factor` times for linear and dynamic,
/// whose files declare the unscaled one, and to what was scaled at least for yarn.
void stretch_context(ModelConfig& config);

/// The factor on cos and sin that the YaRN paper derives from the stretch (arXiv 2309.00071).
float yarn_attention_factor(double factor, double scale = 1);

}  // namespace freekv
