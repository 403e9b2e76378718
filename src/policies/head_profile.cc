#include "policies/head_profile.hpp"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/check.hpp"
#include "policies/demo_profile.hpp"

namespace freekv {
namespace {

using nlohmann::json;

const json& field(const std::string& file, const json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end()) fail(ErrorCode::kParse, "{}: {} is missing", file, name);
  return *found;
}

int read_count(const std::string& file, const json& object, const char* name) {
  constexpr int kMost = 4096;
  const json& value = field(file, object, name);
  if (!value.is_number_integer() || value < 1 || value > kMost) {
    fail(ErrorCode::kParse, "{}: {} is {}, must be a whole number from 1 to {}", file, name,
         value.dump().substr(0, 40), kMost);
  }
  return value.get<int>();
}

// On one line whatever it holds; what is no UTF-8 is replaced.
std::string quoted(const std::string& text) {
  return json(text).dump(-1, ' ', true, json::error_handler_t::replace);
}

// One row per layer, one number per query head.
std::vector<float> read_scores(const std::string& file, const json& object, const char* name,
                               int layers, int heads) {
  const json& rows = field(file, object, name);
  if (!rows.is_array() || rows.size() != static_cast<size_t>(layers)) {
    fail(ErrorCode::kParse, "{}: {} has {} rows, must have one for each of {} layers", file, name,
         rows.is_array() ? rows.size() : 0, layers);
  }
  std::vector<float> scores;
  for (const json& row : rows) {
    if (!row.is_array() || row.size() != static_cast<size_t>(heads)) {
      fail(ErrorCode::kParse,
           "{}: {} of layer {} has {} scores, must have one for each of {} heads", file, name,
           scores.size() / static_cast<size_t>(heads), row.is_array() ? row.size() : 0, heads);
    }
    for (const json& score : row) {
      const double value = score.is_number() ? score.get<double>() : -1;
      if (!(value >= 0 && value <= 1)) {
        fail(ErrorCode::kParse, "{}: {} has the score {}, must be a number from 0 to 1", file, name,
             score.dump().substr(0, 40));
      }
      scores.push_back(static_cast<float>(value));
    }
  }
  return scores;
}

}  // namespace

HeadProfile parse_head_profile(const std::string& file, std::string_view text) {
  const json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) fail(ErrorCode::kParse, "{}: is no JSON object", file);
  HeadProfile profile;
  const json& model = field(file, object, "model");
  if (!model.is_string()) fail(ErrorCode::kParse, "{}: model is no text", file);
  profile.model = model.get<std::string>();
  profile.layers = read_count(file, object, "layers");
  profile.query_heads = read_count(file, object, "query_heads");
  profile.kv_heads = read_count(file, object, "kv_heads");
  if (profile.query_heads % profile.kv_heads != 0) {
    fail(ErrorCode::kParse, "{}: query_heads is {}, must be a multiple of kv_heads = {}", file,
         profile.query_heads, profile.kv_heads);
  }
  profile.echo = read_scores(file, object, "echo", profile.layers, profile.query_heads);
  profile.induction = read_scores(file, object, "induction", profile.layers, profile.query_heads);
  return profile;
}

HeadProfile read_head_profile(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in) fail(ErrorCode::kIo, "{}: the head profile cannot be read", file);
  return parse_head_profile(file, text);
}

std::string format_head_profile(const HeadProfile& profile) {
  const auto rows = [&](const std::vector<float>& scores) {
    std::string text;
    for (int layer = 0; layer < profile.layers; ++layer) {
      text += layer == 0 ? "\n    [" : ",\n    [";
      for (int head = 0; head < profile.query_heads; ++head) {
        const auto at = static_cast<size_t>(layer * profile.query_heads + head);
        text += fmt::format("{}{:.4f}", head == 0 ? "" : ", ", scores[at]);
      }
      text += "]";
    }
    return text + "\n  ]";
  };
  // By hand, so that a layer is a line.
  return fmt::format(
      "{{\n  \"model\": {},\n  \"layers\": {},\n  \"query_heads\": {},\n  \"kv_heads\": {},\n"
      "  \"echo\": [{},\n  \"induction\": [{}\n}}\n",
      quoted(profile.model), profile.layers, profile.query_heads, profile.kv_heads,
      rows(profile.echo), rows(profile.induction));
}

HeadProfile demo_head_profile() { return parse_head_profile("the demo's profile", kDemoProfile); }

void check_profile_shape(const HeadProfile& profile, const CacheConfig& config) {
  check_argument(profile.layers == config.layers && profile.query_heads == config.query_heads &&
                     profile.kv_heads == config.shape.heads,
                 "profile is of {} with {} layers of {}/{} heads, the model has {} of {}/{}; "
                 "freekv profile-heads measures one",
                 quoted(profile.model), profile.layers, profile.query_heads, profile.kv_heads,
                 config.layers, config.query_heads, config.shape.heads);
}

std::vector<uint8_t> retrieval_heads(const HeadProfile& profile, double induction, double echo) {
  const auto heads = static_cast<size_t>(profile.layers * profile.kv_heads);
  const auto group = static_cast<size_t>(profile.query_heads / profile.kv_heads);
  std::vector<uint8_t> keep(heads);
  const auto take = [&](const std::vector<float>& scores, double part) {
    const auto best = [&](size_t head) {
      const auto first = scores.begin() + static_cast<ptrdiff_t>(head * group);
      return *std::max_element(first, first + static_cast<ptrdiff_t>(group));
    };
    std::vector<size_t> order(heads);
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return best(a) > best(b); });
    order.resize(static_cast<size_t>(std::ceil(part * static_cast<double>(heads))));
    for (const size_t head : order) keep[head] = 1;
  };
  take(profile.induction, induction);
  take(profile.echo, echo);
  return keep;
}

}  // namespace freekv
