// Policies by name, and the values of their keys.
#include <charconv>
#include <string_view>

#include "core/check.hpp"
#include "policies/policy.hpp"

namespace freekv {
namespace {

template <typename T>
bool parse_whole(const std::string& text, T* value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && stop == end;
}

// "a, b, c", from anything with names.
template <typename Range>
std::string list_names(const Range& range) {
  std::string names;
  for (const auto& item : range) {
    if (!names.empty()) names += ", ";
    names += item.name;
  }
  return names;
}

const PolicyDescriptor& find_policy(std::string_view name) {
  for (const PolicyDescriptor& policy : policy_table()) {
    if (policy.name == name) return policy;
  }
  fail(ErrorCode::kInvalidArgument, "policy is '{}', must be one of {}", name,
       list_names(policy_table()));
}

// Adds one "key=value" to what the user gave.
void add_setting(const PolicyDescriptor& policy, std::string_view setting,
                 std::map<std::string, std::string>* given) {
  const size_t equals = setting.find('=');
  check_argument(equals != std::string_view::npos, "policy {}: '{}' is not key=value", policy.name,
                 setting);
  const std::string key(setting.substr(0, equals));
  bool known = false;
  for (const PolicyKey& each : policy.keys) known = known || each.name == key;
  if (!known && policy.keys.empty()) {
    fail(ErrorCode::kInvalidArgument, "policy {}: key '{}' is unknown, the policy has no keys",
         policy.name, key);
  }
  check_argument(known, "policy {}: key '{}' is unknown, must be one of {}", policy.name, key,
                 list_names(policy.keys));
  check_argument(given->emplace(key, setting.substr(equals + 1)).second,
                 "policy {}: key '{}' is given twice", policy.name, key);
}

}  // namespace

double PolicyOptions::number(const std::string& key, double low, double high) const {
  double value = 0;
  // The comparison is written so that NaN fails it.
  check_argument(parse_whole(text(key), &value) && value >= low && value <= high,
                 "{} is '{}', must be a number from {} to {}", key, text(key), low, high);
  return value;
}

int64_t PolicyOptions::integer(const std::string& key, int64_t low, int64_t high) const {
  int64_t value = 0;
  check_argument(parse_whole(text(key), &value) && value >= low && value <= high,
                 "{} is '{}', must be a whole number from {} to {}", key, text(key), low, high);
  return value;
}

const std::string& PolicyOptions::text(const std::string& key) const {
  const auto found = values_.find(key);
  check_internal(found != values_.end(), "policy key '{}' has no value", key);
  return found->second;
}

std::unique_ptr<Policy> make_policy(const std::string& specification) {
  const std::string_view all = specification;
  const size_t colon = all.find(':');
  const PolicyDescriptor& policy = find_policy(all.substr(0, colon));
  std::map<std::string, std::string> values;
  if (colon != std::string_view::npos) {
    std::string_view rest = all.substr(colon + 1);
    while (true) {
      const size_t comma = rest.find(',');
      add_setting(policy, rest.substr(0, comma), &values);
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  }
  for (const PolicyKey& key : policy.keys) values.emplace(key.name, key.default_value);
  return policy.make(PolicyOptions(std::move(values)));
}

std::string device_policy_names() {
  std::string names;
  for (const PolicyDescriptor& policy : policy_table()) {
    if (make_policy(policy.name)->device_rule()) names += (names.empty() ? "" : ", ") + policy.name;
  }
  return names;
}

}  // namespace freekv
