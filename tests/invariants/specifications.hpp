// Every policy of this build with every setting its keys offer, from the table: a policy that is
// added is tested without being named here.
#pragma once

#include <string>
#include <vector>

#include "kvcache/sketch.hpp"
#include "policies/policy.hpp"
#include "support/base_specification.hpp"

namespace freekv::invariants {

using testing_support::base_specification;
using testing_support::with_setting;

inline bool has_key(const PolicyDescriptor& policy, const std::string& name) {
  for (const PolicyKey& key : policy.keys) {
    if (key.name == name) return true;
  }
  return false;
}

/// Whether the policy can use this sketch: some can only use estimates of attention mass, which
/// their default says.
inline bool takes_sketch(const PolicyDescriptor& policy, const std::string& sketch) {
  for (const PolicyKey& key : policy.keys) {
    if (key.name != "sketch") continue;
    return find_sketch(key.default_value).score_kind() == ScoreKind::kProduct ||
           find_sketch(sketch).score_kind() == ScoreKind::kLogMass;
  }
  return false;
}

/// "NAME" and "NAME:key=value" for the values that are worth a run; keys this does not know keep
/// their defaults.
inline std::vector<std::string> all_specifications() {
  struct Setting {
    const char* key;
    std::vector<const char*> values;
  };
  static const std::vector<Setting> settings{
      {"sketch", {"cuboid", "minmax+key2", "key2+values"}},
      {"pooling", {"mean_softmax", "max_softmax", "mean_score"}},
      {"dense_layers", {"0", "1"}},
      {"resident", {"1.5", "3"}},
      {"recall", {"streamed"}},
      {"tau", {"-2", "0.9", "2"}},
      {"epsilon", {"0", "0.3"}},
  };
  std::vector<std::string> all;
  for (const PolicyDescriptor& policy : policy_table()) {
    const std::string base = base_specification(policy);
    all.push_back(base);
    for (const Setting& setting : settings) {
      if (!has_key(policy, setting.key)) continue;
      for (const char* value : setting.values) {
        if (setting.key == std::string("sketch") && !takes_sketch(policy, value)) continue;
        all.push_back(with_setting(base, std::string(setting.key) + "=" + value));
      }
    }
    if (has_key(policy, "recall") && has_key(policy, "dense_layers")) {
      all.push_back(with_setting(base, "recall=streamed,dense_layers=0"));
    }
  }
  return all;
}

/// Every policy as it comes, and with retrieval in all layers: for tests that selection's settings
/// do not touch.
inline std::vector<std::string> main_specifications() {
  std::vector<std::string> all;
  for (const PolicyDescriptor& policy : policy_table()) {
    const std::string base = base_specification(policy);
    all.push_back(base);
    if (has_key(policy, "dense_layers")) all.push_back(with_setting(base, "dense_layers=0"));
  }
  return all;
}

/// A name for GoogleTest, which wants letters, digits and underscores.
inline std::string test_name(const std::string& specification) {
  std::string name = specification;
  for (char& c : name) {
    if (c == '-') c = 'm';
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))) c = '_';
  }
  return name;
}

}  // namespace freekv::invariants
