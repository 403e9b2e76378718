// Where a step's time goes. Parts overlap inside a graph, so that no clock inside it could tell:
// steps that lack one part after the other are timed instead, and their differences are the parts.
#include <algorithm>

#include "synthetic/cell.hpp"

namespace freekv::app {
namespace {

constexpr const char* kHow =
    "differences of whole steps timed alone: rest = a dense step over one page; attention = a "
    "dense step over as many tokens as this one attends to, minus rest; selection = this policy "
    "with nothing to recall (churn 0), minus that; recall = this step, minus that: what of the "
    "recall is not hidden";

double dense_ms(const Subject& subject, const SyntheticOptions& options, int64_t tokens,
                int batch) {
  // On average over the timed steps, each of which adds a token.
  const int64_t begin = std::max<int64_t>(options.page, tokens - 2 * options.steps);
  return measure(subject, options, "full", begin, batch)["decode_ms"];
}

}  // namespace

nlohmann::json time_split(const Subject& subject, const SyntheticOptions& options,
                          const nlohmann::json& row) {
  const auto policy = row["policy"].get<std::string>();
  const auto context = row["context"].get<int64_t>();
  const int batch = row["batch"];
  const double ms = row["decode_ms"];
  const bool dense = policy == "full" || context <= options.budget;
  const double rest = dense_ms(subject, options, options.page, batch);
  const double attending = dense ? ms : dense_ms(subject, options, options.budget, batch);
  double still = ms;
  if (!dense && row["bytes_recalled_per_step"] > 0) {
    SyntheticOptions without = options;
    without.churn = 0;
    still = measure(subject, without, policy, context, batch)["decode_ms"];
  }
  return {{"rest_ms", rest},
          {"weights_ms", subject.weights.read_ms},
          {"attention_ms", attending - rest},
          {"selection_ms", still - attending},
          {"recall_ms", ms - still},
          {"how", kHow}};
}

}  // namespace freekv::app
