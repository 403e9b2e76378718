// Policies as the tests run them when they have no wish of their own.
#pragma once

#include <string>

#include "policies/policy.hpp"

namespace freekv::testing_support {

/// Values of keys whose default is made for one model and not for a test's.
struct StandIn {
  const char* key;
  const char* value;
};
inline constexpr StandIn kStandIns[] = {{"profile", "even"}};

/// "NAME", or "NAME:key=value" where a key needs another value than its default.
inline std::string base_specification(const PolicyDescriptor& policy) {
  std::string specification = policy.name;
  for (const StandIn& each : kStandIns) {
    for (const PolicyKey& key : policy.keys) {
      if (key.name != each.key) continue;
      specification += specification == policy.name ? ":" : ",";
      specification += std::string(each.key) + "=" + each.value;
    }
  }
  return specification;
}

/// The same with one more "key=value".
inline std::string with_setting(const std::string& specification, const std::string& setting) {
  return specification + (specification.find(':') == std::string::npos ? ":" : ",") + setting;
}

/// Policies that bring only the values of some pages and write the keys themselves, to within
/// rounding where they keep as many numbers as keys have: those with this key.
inline bool rebuilds_keys(const std::string& specification) {
  for (const PolicyDescriptor& policy : policy_table()) {
    if (specification.substr(0, specification.find(':')) != policy.name) continue;
    for (const PolicyKey& key : policy.keys) {
      if (key.name == "rank") return true;
    }
  }
  return false;
}

}  // namespace freekv::testing_support
