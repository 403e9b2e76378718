#include "tokenizer/bpe_merges.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace freekv {

BpeMerges::BpeMerges(std::span<const BpeMerge> merges, int32_t vocab_size,
                     std::span<const uint32_t> ranks) {
  const auto rank_of = [&](uint32_t i) { return ranks.empty() ? i : ranks[i]; };
  std::vector<uint32_t> order(merges.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
    return std::tuple(merges[a].left, merges[a].right, rank_of(a), a) <
           std::tuple(merges[b].left, merges[b].right, rank_of(b), b);
  });
  begin_.assign(static_cast<size_t>(vocab_size) + 1, 0);
  const BpeMerge* last = nullptr;
  for (const uint32_t i : order) {
    const BpeMerge& merge = merges[i];
    if (last != nullptr && last->left == merge.left && last->right == merge.right) continue;
    last = &merge;
    entries_.push_back({merge.right, rank_of(i), merge.result});
    ++begin_[static_cast<size_t>(merge.left) + 1];
  }
  std::partial_sum(begin_.begin(), begin_.end(), begin_.begin());
}

const BpeMerges::Entry* BpeMerges::find(int32_t left, int32_t right) const {
  const Entry* begin = entries_.data() + begin_[static_cast<size_t>(left)];
  const Entry* end = entries_.data() + begin_[static_cast<size_t>(left) + 1];
  const Entry* it = std::lower_bound(
      begin, end, right, [](const Entry& entry, int32_t wanted) { return entry.right < wanted; });
  return it != end && it->right == right ? it : nullptr;
}

namespace {

// A heap with the lowest rank, then the leftmost position, on top.
bool comes_later(const BpeMerges::Workspace::Candidate& a,
                 const BpeMerges::Workspace::Candidate& b) {
  return a.order > b.order;
}

}  // namespace

// Adds the merge of the symbols at two adjacent positions, if there is one, to the end of the heap.
void BpeMerges::push(Workspace& workspace, int32_t left, int32_t right) const {
  if (left < 0 || right < 0) return;
  const int32_t left_id = workspace.symbols[static_cast<size_t>(left)].id;
  const int32_t right_id = workspace.symbols[static_cast<size_t>(right)].id;
  if (const Entry* entry = find(left_id, right_id)) {
    const uint64_t order = uint64_t{entry->rank} << 32 | static_cast<uint32_t>(left);
    workspace.candidates.push_back({order, left_id, right_id});
  }
}

void BpeMerges::apply(std::span<const int32_t> word, Workspace& workspace,
                      std::vector<int32_t>& out) const {
  auto& symbols = workspace.symbols;
  auto& heap = workspace.candidates;
  const auto n = static_cast<int32_t>(word.size());
  symbols.clear();
  heap.clear();
  for (int32_t i = 0; i < n; ++i) {
    symbols.push_back({word[static_cast<size_t>(i)], i - 1, i + 1 < n ? i + 1 : -1});
  }
  for (int32_t i = 0; i + 1 < n; ++i) push(workspace, i, i + 1);
  std::make_heap(heap.begin(), heap.end(), comes_later);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), comes_later);
    const Workspace::Candidate best = heap.back();
    heap.pop_back();
    // Candidates of symbols that have merged since stay in the heap; they are known by their ids.
    const auto position = static_cast<int32_t>(best.order & 0xffffffffu);
    Workspace::Symbol& left = symbols[static_cast<size_t>(position)];
    if (left.id != best.left || left.next < 0) continue;
    Workspace::Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (right.id != best.right) continue;

    left.id = find(best.left, best.right)->result;
    right.id = -1;  // merged away: matches no candidate
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = position;
    for (const auto& [a, b] :
         {std::pair(left.previous, position), std::pair(position, left.next)}) {
      const size_t before = heap.size();
      push(workspace, a, b);
      if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), comes_later);
    }
  }
  for (int32_t i = n > 0 ? 0 : -1; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    out.push_back(symbols[static_cast<size_t>(i)].id);
  }
}

}  // namespace freekv
