// Records scattered over a long text, to be written out as JSON lines: extraction, where sketches
// that bound instead of estimate lose most.
#include <fmt/format.h>

#include <map>
#include <nlohmann/json.hpp>

#include "core/check.hpp"
#include "eval/names.hpp"
#include "eval/scoring.hpp"
#include "eval/suites/suites.hpp"
#include "eval/words.hpp"

namespace freekv::eval {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

std::string capitalised(std::string_view word) {
  std::string text(word);
  text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

class CopyJson : public Suite {
 public:
  explicit CopyJson(const SuiteOptions& options)
      : haystack_(options.haystack), records_(options.records) {
    check_argument(records_ >= 1 && records_ <= 10000, "records is {}, must be 1 to 10000",
                   records_);
  }

  std::string name() const override { return "copy-json"; }
  std::string settings() const override {
    return fmt::format("haystack={},records={}", haystack_->mark(), records_);
  }

  Sample make(const SampleRequest& request) const override {
    Random random = sample_random(*this, request);
    Names names(random);
    std::vector<std::string> facts;
    Turn turn;
    for (int64_t i = 0; i < records_; ++i) {
      const std::string order = names.digits(5);
      const std::string first = capitalised(random.choice(adjectives()));
      const std::string customer = fmt::format("{} {}", first, capitalised(random.choice(nouns())));
      const int64_t quantity = random.between(2, 99);
      const std::string_view colour = random.choice(adjectives());
      const std::string item = fmt::format("{} {}", colour, random.choice(nouns()));
      const int64_t price = random.between(10, 999);
      facts.push_back(fmt::format("Order {} was placed by {}: {} pieces of {} at {} pence each.",
                                  order, customer, quantity, item, price));
      turn.references.push_back(ordered_json{
          {"order", std::stoll(order)},
          {"customer", customer},
          {"quantity", quantity},
          {"item", item},
          {"price", price}}.dump());
    }
    turn.question =
        "Extract all orders from the text above, in the order in which they appear. Write one JSON "
        "object a line and nothing else, in this form: {\"order\": 12345, \"customer\": \"First "
        "Last\", \"quantity\": 12, \"item\": \"green lamp\", \"price\": 34}";
    turn.answer = fmt::format("{}", fmt::join(turn.references, "\n"));
    Sample sample{.id = fmt::format("{}", request.index), .document = "", .turns = {turn}};
    sample.document = document_with(*haystack_, "", facts, request, sample.turns, random);
    return sample;
  }

  /// F1 over fields: a field is right when the record of that order number has this value.
  Score score(const Turn& turn, std::string_view answer) const override {
    std::vector<json> expected, given;
    for (const std::string& line : turn.references) expected.push_back(json::parse(line));
    const size_t fields = expected.front().size();
    size_t written = 0;  // fields the answer claims
    bool clean = true;   // nothing but records and code fences
    for (const std::string& line : split(answer, "\n")) {
      if (line.empty() || line.substr(0, 3) == "```") continue;
      json record = json::parse(line, nullptr, false);
      if (!record.is_object()) {
        clean = false;
        // A record that is no JSON claims as much as one; other prose claims nothing.
        if (line[0] == '{') written += fields;
        continue;
      }
      written += record.size();
      given.push_back(std::move(record));
    }
    std::map<int64_t, const json*> by_order;
    for (const json& record : given) {
      const auto order = record.find("order");
      if (order != record.end() && order->is_number_integer()) by_order.emplace(*order, &record);
    }
    size_t right = 0;
    for (const json& record : expected) {
      const auto found = by_order.find(record["order"]);
      if (found == by_order.end()) continue;
      for (const auto& [key, value] : record.items()) {
        right += found->second->contains(key) && (*found->second)[key] == value;
      }
    }
    const size_t all = fields * expected.size() + written;
    return {2 * static_cast<double>(right) / static_cast<double>(all), clean && given == expected};
  }

 private:
  std::shared_ptr<const Haystack> haystack_;
  int64_t records_;
};

}  // namespace

Suites copy_json(const SuiteOptions& options) { return single<CopyJson>(options); }

}  // namespace freekv::eval
