#include "eval/suite.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "core/check.hpp"
#include "eval/suites/suites.hpp"

namespace freekv::eval {
namespace {

struct Entry {
  std::string name;
  bool haystack = false;
  bool file = false;
  std::function<Suites(const SuiteOptions& options, const std::string& file)> make;
};

const std::vector<Entry>& table() {
  static const std::vector<Entry> entries = {
      {"ruler", true, false, [](const SuiteOptions& o, const std::string&) { return ruler(o); }},
      {"chain", true, false, [](const SuiteOptions& o, const std::string&) { return chain(o); }},
      {"ledger", true, false, [](const SuiteOptions& o, const std::string&) { return ledger(o); }},
      {"copy-json", true, false,
       [](const SuiteOptions& o, const std::string&) { return copy_json(o); }},
      {"longbench-v2", false, true,
       [](const SuiteOptions&, const std::string& file) { return longbench_v2(file); }},
      {"longgenbench", false, true,
       [](const SuiteOptions&, const std::string& file) { return longgenbench(file); }},
      {"math", false, true,
       [](const SuiteOptions&, const std::string& file) { return math(file); }},
      {"aime", false, true,
       [](const SuiteOptions&, const std::string& file) { return aime(file); }}};
  return entries;
}

struct Specification {
  std::string suite;  // "ruler"
  std::string task;   // "niah-single", or empty
  std::string file;
};

Specification parse(const std::string& text) {
  const size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  const size_t slash = name.find('/');
  return {name.substr(0, slash), slash == std::string::npos ? "" : name.substr(slash + 1),
          colon == std::string::npos ? "" : text.substr(colon + 1)};
}

const Entry* find(const std::string& suite) {
  for (const Entry& entry : table()) {
    if (entry.name == suite) return &entry;
  }
  return nullptr;
}

[[noreturn]] void unknown(const std::string& what, const std::string& name,
                          const std::vector<std::string>& known) {
  std::string list;
  for (const std::string& entry : known) list += (list.empty() ? "" : ", ") + entry;
  fail(ErrorCode::kInvalidArgument, "{} \"{}\" is unknown; there are {}", what, name, list);
}

}  // namespace

bool needs_haystack(const std::string& specification) {
  const Entry* entry = find(parse(specification).suite);
  return entry && entry->haystack;
}

Suites make_suites(const std::string& specification, const SuiteOptions& options) {
  const auto [name, task, file] = parse(specification);
  const Entry* entry = find(name);
  if (!entry) {
    std::vector<std::string> known;
    for (const Entry& each : table()) known.push_back(each.name + (each.file ? ":FILE" : ""));
    unknown("suite", name, known);
  }
  check_argument(entry->file || file.empty(),
                 "suite {} makes its samples, it takes no file (\"{}\")", name, file);
  check_argument(!entry->file || !file.empty(), "suite {} reads a file: give it as {}:FILE", name,
                 name);
  check_argument(!entry->haystack || options.haystack, "suite {} needs a haystack text", name);
  Suites suites = entry->make(options, file);
  if (task.empty()) return suites;
  std::vector<std::string> known;
  for (const auto& suite : suites) known.push_back(suite->name());
  std::erase_if(suites, [&](const auto& suite) { return suite->name() != name + "/" + task; });
  if (suites.empty()) unknown("suite", name + "/" + task, known);
  return suites;
}

int64_t document_tokens(const SampleRequest& request, const std::vector<Turn>& turns) {
  constexpr int64_t kFormat = 32;  // turn markers, line breaks, what joins differently
  int64_t most = 0;
  for (const Turn& turn : turns) {
    most = std::max(most, request.count(turn.question) + request.count(turn.answer_start) +
                              request.count(turn.answer));
  }
  const int64_t left = request.context - most - kFormat;
  check_argument(left >= 1,
                 "a context of {} tokens has no room for a document: question and answer "
                 "take {}",
                 request.context, most + kFormat);
  return left;
}

std::string document_with(const Haystack& haystack, const std::string& opening,
                          const std::vector<std::string>& facts, const SampleRequest& request,
                          const std::vector<Turn>& turns, Random& random) {
  const int64_t room = document_tokens(request, turns) - request.count(opening);
  return opening + haystack.hide(facts, room, request.count, random);
}

Random sample_random(const Suite& suite, const SampleRequest& request) {
  // The context is left out: the same facts are asked for in every length of text.
  return Random(fmt::format("{} {} {}", suite.name(), request.seed, request.index));
}

}  // namespace freekv::eval
