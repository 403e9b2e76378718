// The published vocabularies against their published token ids (../shared/data/vocab), round trips
// over arbitrary bytes, and time on adversarial input.
#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tokenizer/stream_decoder.hpp"
#include "tokenizer/tokenizer.hpp"
#include "tokenizer/tokenizer_test_vocab.hpp"

namespace freekv {
namespace {

// Of the processor: other programs on the machine do not count.
double cpu_seconds_since(std::clock_t start) {
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

const std::string kVocab = FREEKV_SOURCE_DIR "/../shared/data/vocab/";

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Tokenizer from_file(const std::string& name) {
  Gguf gguf = std::move(Gguf::open(kVocab + name)).value();
  return std::move(Tokenizer::from_gguf(gguf)).value();
}

// Llama 3: a JSON object of token to id and a merge a line, as published; no special tokens.
Tokenizer make_llama3() {
  const auto ids = nlohmann::json::parse(read_file(kVocab + "llama3-encoder.json"));
  const std::string merge_lines = read_file(kVocab + "llama3-merges.bpe");
  std::vector<std::string> tokens(ids.size());
  for (const auto& [token, id] : ids.items()) tokens.at(id.get<size_t>()) = token;
  TokenizerSpec spec;
  spec.source = "llama3";
  spec.pre_tokenizer = "llama-bpe";
  spec.tokens.assign(tokens.begin(), tokens.end());
  for (std::string_view rest = merge_lines; !rest.empty();) {
    const size_t end = rest.find('\n');
    if (end > 0) spec.merges.push_back(split_merge(rest.substr(0, end), spec.merges.size()));
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
  }
  return std::move(Tokenizer::create(spec)).value();
}

// Loading takes a second or so under sanitizers: once per program.
const Tokenizer& tokenizer_of(const std::string& name) {
  static std::map<std::string, std::unique_ptr<Tokenizer>> made;
  std::unique_ptr<Tokenizer>& tokenizer = made[name];
  if (!tokenizer) {
    tokenizer = std::make_unique<Tokenizer>(name == "llama-bpe" ? make_llama3()
                                                                : from_file(name + ".gguf"));
  }
  return *tokenizer;
}

std::vector<std::string> cases_of(const std::string& name) {
  const std::string terminator = "\n__ggml_vocab_test__\n";
  const std::string text = read_file(kVocab + name + ".gguf.inp");
  std::vector<std::string> cases;
  size_t at = 0;
  for (size_t end = 0; (end = text.find(terminator, at)) != std::string::npos;) {
    cases.push_back(text.substr(at, end - at));
    at = end + terminator.size();
  }
  EXPECT_EQ(at, text.size()) << "text after the last terminator";
  return cases;
}

std::vector<std::vector<int32_t>> expected_of(const std::string& name) {
  std::vector<std::vector<int32_t>> expected;
  std::istringstream lines(read_file(kVocab + name + ".gguf.out"));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    expected.emplace_back(std::istream_iterator<int32_t>(numbers),
                          std::istream_iterator<int32_t>());
  }
  return expected;
}

// What comes back of a text. SentencePiece's mark of a space, U+2581, is a space to it.
std::string returned(const std::string& name, std::string text) {
  const std::string mark = "\xe2\x96\x81";
  if (name != "llama-spm") return text;
  for (size_t at = 0; (at = text.find(mark, at)) != std::string::npos; ++at) {
    text.replace(at, mark.size(), " ");
  }
  return text;
}

class TokenizerVectors : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kVocab)) GTEST_SKIP() << "no " << kVocab << " on this machine";
  }
};

TEST_P(TokenizerVectors, EveryCaseGivesThePublishedIds) {
  const Tokenizer& tokenizer = tokenizer_of(GetParam());
  const auto cases = cases_of(GetParam());
  const auto expected = expected_of(GetParam());
  ASSERT_GT(cases.size(), 40u);
  ASSERT_EQ(cases.size(), expected.size());
  for (size_t i = 0; i < cases.size(); ++i) {
    EXPECT_EQ(tokenizer.encode(cases[i]), expected[i]) << "case " << i << ": " << cases[i];
    EXPECT_EQ(tokenizer.decode(expected[i]), cases[i]) << "case " << i;
  }
}

TEST_P(TokenizerVectors, DecodeUndoesEncodeForAnyBytes) {
  const Tokenizer& tokenizer = tokenizer_of(GetParam());
  // Pieces that meet the rules' corner cases, between bytes of every kind.
  const auto piece = rc::gen::oneOf(
      rc::gen::container<std::string>(rc::gen::arbitrary<char>()),
      rc::gen::element<std::string>(" ", "\n", "\r\n", "'s", "'LL", "\xf0\x9f\xa6\x99",
                                    "\xe2\x80\x83", "123456", "hello", " world", "\xcc\x81",
                                    "\xf0\x9f", "\xe2\x96\x81", "<|endoftext|>"));
  const bool holds = rc::check("decode(encode(text)) == text", [&] {
    std::string text;
    for (const std::string& part : *rc::gen::container<std::vector<std::string>>(piece)) {
      text += part;
    }
    const std::vector<int32_t> ids = tokenizer.encode(text);
    const std::string expected = returned(GetParam(), text);
    RC_ASSERT(tokenizer.decode(ids) == expected);
    // A space prefix comes after special tokens too, and there it stays.
    if (!tokenizer.strips_leading_space()) {
      RC_ASSERT(tokenizer.decode(tokenizer.encode(text, {.parse_special = true}), true) ==
                expected);
    }
    StreamDecoder stream(tokenizer);
    std::string joined;
    for (const int32_t id : ids) joined += stream.push(id);
    joined += stream.flush();
    RC_ASSERT(joined == expected);
  });
  EXPECT_TRUE(holds);
}

TEST_P(TokenizerVectors, AMegabyteOfAnythingTakesLinearTime) {
  const Tokenizer& tokenizer = tokenizer_of(GetParam());
  for (const std::string unit : {"a", " ", "7", "!", "\n", "\xcc\x81", "\xff", "="}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    const std::clock_t start = std::clock();
    const std::vector<int32_t> ids = tokenizer.encode(text);
    const double seconds = cpu_seconds_since(start);
    EXPECT_EQ(tokenizer.decode(ids), text);
    EXPECT_LT(seconds, 20) << unit;  // some 0.3 s alone on a machine; quadratic is hours
  }
}

INSTANTIATE_TEST_SUITE_P(Published, TokenizerVectors,
                         testing::Values("gpt-2", "llama-bpe", "llama-spm"), [](const auto& info) {
                           return info.param == "gpt-2"       ? "Gpt2"
                                  : info.param == "llama-bpe" ? "Llama3"
                                                              : "LlamaSpm";
                         });

}  // namespace
}  // namespace freekv
