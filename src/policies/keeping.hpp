// What policies share that drop pages for good: which pages each head keeps, and the moments at
// which that changes. A page is decided about when it leaves the window; in the slots of the window
// it still stands then. There is no slow tier: what is not kept is gone.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policies/attention_mass.hpp"
#include "policies/retrieval.hpp"

namespace freekv {

/// The pages kept are RetrievalState's selection.
class KeepingState : public RetrievalState {
 public:
  KeepingState(const CacheConfig& config, const CacheNeeds& needs);

  /// The prompt's queries have been seen: what rewind() brings back. Looking at them may cost as
  /// much as reading the prompt, and what they came to is little.
  void remember_prompt();
  bool rewind() override;

  /// Of each page, what the policy gathers about it [max_pages]; zero at first.
  std::span<double> mass(int layer, int head);
  /// That of all heads [M, max_pages].
  View<double, 2> layer_mass(int layer);
  /// First page of the layer's head that was no candidate yet.
  int32_t& undecided(int layer, int head);
  /// Scratch to compute the attention mass of one decode row of this head, and the result.
  std::span<float> scratch_of_row(int head);
  std::span<double> row_mass(int head);

 private:
  size_t heads_;
  size_t max_pages_;
  size_t attended_;
  size_t scratch_size_;
  std::vector<double> mass_;         // [layers][heads][max_pages]
  std::vector<double> prompt_mass_;  // the same, as remembered
  bool remembers_ = false;
  std::vector<int32_t> undecided_;  // [layers][heads]
  std::vector<float> scratch_;      // [heads][scratch_size_]
  std::vector<double> row_mass_;    // [heads][attended pages]
};

/// Adds the attention of a prompt's queries to KeepingState::mass of the pages it went to.
void add_prompt_mass(const PromptQueries& queries);

/// After a prompt: within the budget each head keeps the pages that stand in its slots, past it the
/// candidates of most mass, which are copied there.
void keep_of_prompt(ExecutionContext& ctx, Backend& backend, const PolicySequence& sequence);

/// Gives every row of the step its pages. Where one has just left the window,
/// victim(row, newcomer) says which goes: one of those kept, or the newcomer itself.
void set_kept_rows(LayerStep& step, FunctionRef<int32_t(const StepRow&, int32_t newcomer)> victim);

/// Computes what part of the step's attention went to which page of the row: calls
/// body(page, mass) for each of them, in order.
void for_page_masses(const LayerStep& step, const StepRow& row,
                     FunctionRef<void(int32_t page, double mass)> body);

}  // namespace freekv
