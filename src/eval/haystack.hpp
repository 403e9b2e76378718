// The long text that facts are hidden in.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "eval/random.hpp"

namespace freekv::eval {

/// Tokens of a text, as the model under test counts them.
using TokenCounter = std::function<int64_t(std::string_view text)>;

/// The amount whose text comes close to `target` tokens without exceeding it, by a few tries from
/// a guess; 0 when not even an amount of 1 fits. `tokens_of` grows about linearly with the amount.
int64_t fitting_amount(int64_t guess, int64_t target,
                       const std::function<int64_t(int64_t amount)>& tokens_of);

class Haystack {
 public:
  /// Running text. Facts of our own tasks in it (the demo document has some) and lines that only
  /// say `<|endoftext|>` are taken out. Throws Error(kInvalidArgument) naming `where` when too
  /// little is left, or when the bytes are those of an xz file.
  Haystack(std::string text, const std::string& where);

  /// A document of at most `tokens` tokens and close to it, with the facts in this order, each
  /// after a full stop; another part of the text for each random stream. Throws
  /// Error(kInvalidArgument) with both counts when the facts alone take more.
  std::string hide(const std::vector<std::string>& facts, int64_t tokens, const TokenCounter& count,
                   Random& random) const;

  /// Names the text in results, so that a run is not resumed with another one.
  std::string mark() const;

 private:
  /// About `length` bytes from `start` on, cyclic, ending with a full stop.
  std::string slice(size_t start, size_t length) const;

  std::string text_;
};

}  // namespace freekv::eval
