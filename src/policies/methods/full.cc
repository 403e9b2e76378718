// full: dense attention over all pages, the reference for every comparison.
#include "kvcache/page_layout.hpp"
#include "policies/policy.hpp"
#include "policies/retrieval.hpp"

namespace freekv {
namespace {

class FullPolicy final : public Policy {
 public:
  CacheNeeds plan(const CacheConfig&) const override { return {}; }
  std::unique_ptr<PolicyState> make_state(const CacheConfig&) const override {
    return std::make_unique<PolicyState>();
  }
  std::optional<RetrievalRule> device_rule() const override { return RetrievalRule{}; }
  void pages_for(LayerStep& step) override {
    for (size_t s = 0; s < step.sequences.size(); ++s) set_dense_rows(step, static_cast<int>(s));
  }
};

}  // namespace

PolicyDescriptor describe_full() {
  return {"full", "dense attention over the whole context", {}, [](const PolicyOptions&) {
            return std::make_unique<FullPolicy>();
          }};
}

}  // namespace freekv
