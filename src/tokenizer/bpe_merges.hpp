// Byte-pair encoding: the ranked merges, and their application to one word.
//
// Sennrich et al., 2016, "Neural Machine Translation of Rare Words with Subword Units", section
// 3.2, with the merges applied in order of rank as GPT-2's encoder does.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace freekv {

/// left and right, adjacent, become result. All are token ids, >= 0.
struct BpeMerge {
  int32_t left;
  int32_t right;
  int32_t result;
};

/// Immutable once made.
class BpeMerges {
 public:
  /// Space for apply(), reused between words.
  struct Workspace {
    struct Symbol {
      int32_t id;
      int32_t previous;  // positions of the neighbours, -1 at the ends
      int32_t next;
    };
    struct Candidate {
      uint64_t order;  // rank, then the position of the left symbol in the low 32 bits
      int32_t left;
      int32_t right;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> candidates;
  };

  /// Lower ranks merge first, and of equal ranks the leftmost. `ranks` is as long as `merges`, or
  /// empty: a merge's rank is its position. Of merges of the same pair the lowest rank counts. Ids
  /// are below `vocab_size`; fewer than 2^32 merges.
  BpeMerges(std::span<const BpeMerge> merges, int32_t vocab_size,
            std::span<const uint32_t> ranks = {});

  size_t size() const { return entries_.size(); }

  /// Merges `word`, at most 2^31 - 1 ids, until no merge applies: always the one of lowest rank,
  /// leftmost first. Appends the result to `out`. Time is n log n in the length of the word.
  void apply(std::span<const int32_t> word, Workspace& workspace, std::vector<int32_t>& out) const;

 private:
  struct Entry {
    int32_t right;
    uint32_t rank;
    int32_t result;
  };
  const Entry* find(int32_t left, int32_t right) const;
  void push(Workspace& workspace, int32_t left, int32_t right) const;

  // Entries of each left id, ordered by the right id: found by bisection, so that no choice of
  // merges makes a lookup slow, as one of colliding hashes would.
  std::vector<Entry> entries_;
  std::vector<uint32_t> begin_;  // entries of left id i are [begin_[i], begin_[i + 1])
};

}  // namespace freekv
