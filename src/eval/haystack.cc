#include "eval/haystack.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/check.hpp"

namespace freekv::eval {
namespace {

constexpr size_t kLeastText = 1000;

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/// Where a fact may be put: before the space of ". Next", which leaves ". FACT Next".
std::vector<size_t> places_of(std::string_view text) {
  std::vector<size_t> places;
  for (size_t at = 1; at + 1 < text.size(); ++at) {
    if (text[at - 1] == '.' && text[at] == ' ' && is_letter(text[at + 1])) places.push_back(at);
  }
  return places;
}

/// The whole of a fact that begins at `at`, up to its full stop; 0 when it is none.
size_t fact_length(std::string_view text, size_t at) {
  constexpr std::array<std::string_view, 4> kOpenings = {"One of the special magic ", "VAR ",
                                                         "Room ", "Ledger entry "};
  constexpr std::array<std::string_view, 4> kMiddles = {" is: ", " = ", " leads to room ", ": "};
  for (size_t kind = 0; kind < kOpenings.size(); ++kind) {
    if (text.substr(at, kOpenings[kind].size()) != kOpenings[kind]) continue;
    const size_t stop = text.find('.', at);
    if (stop == std::string_view::npos || stop - at > 120) return 0;
    const std::string_view fact = text.substr(at, stop + 1 - at);
    return fact.find(kMiddles[kind]) == std::string_view::npos ? 0 : fact.size();
  }
  return 0;
}

std::string without_facts(std::string_view text) {
  std::string kept;
  kept.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    // A fact stands at the beginning of a line or after ". ".
    const bool begins = at == 0 || text[at - 1] == '\n' || text[at - 1] == ' ';
    if (const size_t length = begins ? fact_length(text, at) : 0) {
      at += length;
      // One of the two blanks around it goes too.
      if (at < text.size() && (text[at] == ' ' || text[at] == '\n')) ++at;
      continue;
    }
    kept += text[at++];
  }
  return kept;
}

void erase_all(std::string& text, std::string_view part) {
  size_t out = 0;
  for (size_t at = 0; at < text.size();) {
    if (text.compare(at, part.size(), part) == 0) {
      at += part.size();
    } else {
      text[out++] = text[at++];
    }
  }
  text.resize(out);
}

}  // namespace

int64_t fitting_amount(int64_t guess, int64_t target,
                       const std::function<int64_t(int64_t)>& tokens_of) {
  int64_t best = 0;
  int64_t amount = std::max<int64_t>(1, guess);
  // Proportional steps find the neighbourhood; a little less each time ends them below the target.
  for (int tries = 0; tries < 12; ++tries) {
    const int64_t tokens = std::max<int64_t>(1, tokens_of(amount));
    if (tokens <= target) {
      best = std::max(best, amount);
      if (static_cast<double>(tokens) >= 0.985 * static_cast<double>(target)) break;
    }
    const double ratio = static_cast<double>(target) / static_cast<double>(tokens);
    const double slack = 1 - 0.004 * (tries + 1);
    auto next = static_cast<int64_t>(static_cast<double>(amount) * std::min(ratio, 4.0) * slack);
    // Where the part that does not grow outweighs the rest, a proportional step overshoots to 0.
    if (next < 1) next = amount / 2;
    if (next < 1 || next == amount) break;
    amount = next;
  }
  return best;
}

Haystack::Haystack(std::string text, const std::string& where) {
  if (text.compare(0, 6,
                   std::string("\xFD"
                               "7zXZ\0",
                               6)) == 0) {
    throw Error(ErrorCode::kInvalidArgument, "is compressed with xz; decompress it first", where);
  }
  erase_all(text, "<|endoftext|>\n");
  text_ = without_facts(text);
  if (text_.size() < kLeastText || places_of(text_).size() < 2) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("has {} bytes of running text, must have {} with several sentences",
                            text_.size(), kLeastText),
                where);
  }
}

std::string Haystack::mark() const { return fmt::format("{:08x}", hash(text_) >> 32); }

std::string Haystack::slice(size_t start, size_t length) const {
  std::string part;
  part.reserve(length);
  while (part.size() < length) {
    const size_t take = std::min(length - part.size(), text_.size() - start);
    part.append(text_, start, take);
    start = 0;
  }
  const size_t stop = part.rfind('.');
  part.resize(stop == std::string::npos ? 0 : stop + 1);
  return part;
}

std::string Haystack::hide(const std::vector<std::string>& facts, int64_t tokens,
                           const TokenCounter& count, Random& random) const {
  // From the beginning of a line that begins with a letter, as the bundled model was trained.
  size_t start = static_cast<size_t>(random.below(text_.size()));
  for (size_t tries = 0; tries < text_.size(); ++tries, start = (start + 1) % text_.size()) {
    if ((start == 0 || text_[start - 1] == '\n') && is_letter(text_[start])) break;
  }
  // Depths as shares of the text, so that they do not depend on how much of it fits.
  std::vector<double> depths(facts.size());
  for (double& depth : depths) depth = random.uniform();
  std::sort(depths.begin(), depths.end());

  const auto document = [&](int64_t bytes) {
    const std::string filler = slice(start, static_cast<size_t>(bytes));
    const std::vector<size_t> places = places_of(filler);
    std::string text;
    size_t last = 0;
    for (size_t i = 0; i < facts.size(); ++i) {
      const size_t place =
          places.empty()
              ? filler.size()
              : places[static_cast<size_t>(depths[i] * static_cast<double>(places.size()))];
      text.append(filler, last, place - last);
      last = place;
      if (!text.empty()) text += ' ';
      text += facts[i];
    }
    return text.append(filler, last, std::string::npos);
  };

  const int64_t bytes =
      fitting_amount(4 * tokens, tokens, [&](int64_t n) { return count(document(n)); });
  if (bytes == 0) {
    fail(ErrorCode::kInvalidArgument,
         "{} facts of {} tokens do not fit into the {} tokens the context leaves for the document",
         facts.size(), count(document(1)), tokens);
  }
  return document(bytes);
}

}  // namespace freekv::eval
