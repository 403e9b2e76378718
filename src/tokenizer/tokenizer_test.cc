#include "tokenizer/tokenizer.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <thread>

#include "tokenizer/tokenizer_test_vocab.hpp"

namespace freekv {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Result<Tokenizer> from_bytes(const std::string& bytes) {
  Result<Gguf> gguf = Gguf::parse(std::as_bytes(std::span(bytes)), "test.gguf");
  if (!gguf.ok()) return gguf.error();
  return Tokenizer::from_gguf(gguf.value());
}

void expect_refused(const Result<Tokenizer>& result, ErrorCode code, const std::string& part) {
  ASSERT_FALSE(result.ok()) << "accepted, expected: " << part;
  EXPECT_EQ(result.error().code(), code) << result.error().what();
  EXPECT_FALSE(result.error().where().empty());
  EXPECT_THAT(result.error().message(), HasSubstr(part));
  EXPECT_THAT(result.error().message(), testing::Not(HasSubstr("\n")));
}

class TokenizerTest : public testing::Test {
 protected:
  int32_t id(std::string_view token) const { return vocabulary_.id_of(token); }

  SmallVocabulary vocabulary_;
  const Tokenizer tokenizer_ = std::move(Tokenizer::create(vocabulary_.spec())).value();
};

TEST_F(TokenizerTest, MergesWithinWords) {
  EXPECT_THAT(tokenizer_.encode(""), ElementsAre());
  EXPECT_THAT(tokenizer_.encode("hello hello"),
              ElementsAre(id("hello"), id(spell_bytes(" hello"))));
  EXPECT_THAT(tokenizer_.encode("aaaaaaa"), ElementsAre(id("aaaa"), id("aa"), 'a'));
  EXPECT_THAT(tokenizer_.encode("12"), ElementsAre('1', '2'));  // qwen2: a word per digit
  EXPECT_THAT(tokenizer_.encode("\xf0\x9f"), ElementsAre(id(spell_bytes("\xf0\x9f"))));
  SmallVocabulary gpt2("gpt-2");
  EXPECT_THAT(Tokenizer::create(gpt2.spec()).value().encode("12"), ElementsAre(gpt2.id_of("12")));
}

TEST_F(TokenizerTest, LongTextsUseTheSameWordsAsShortOnes) {
  // Long enough for the word table, with many words that meet in a slot.
  std::string text;
  std::vector<int32_t> expected;
  std::mt19937 random(5);
  for (int i = 0; i < 30000; ++i) {
    std::string word = " ";
    for (auto n = random() % 4; n > 0; --n) word += static_cast<char>('a' + random() % 26);
    word += i % 7 == 0 ? "aaaahello" : "x";
    text += word;
    for (const int32_t token : tokenizer_.encode(word)) expected.push_back(token);
  }
  EXPECT_EQ(tokenizer_.encode(text), expected);
}

TEST_F(TokenizerTest, ThreadsShareOneTokenizer) {
  const std::string text = "hello hello<|im_end|> aaaaaaa 12 \xf0\x9f\xa6\x99\xff";
  const auto expected = tokenizer_.encode(text, {.parse_special = true});
  std::vector<std::vector<int32_t>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) result = tokenizer_.encode(text, {.parse_special = true});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(results, testing::Each(expected));
}

TEST_F(TokenizerTest, ControlTokensAreTextUnlessParsed) {
  const std::string text = "<|im_start|>a<tool>s<|im_end|>";
  const auto as_text = tokenizer_.encode(text);
  EXPECT_THAT(as_text, testing::Contains(id("<tool>s")));
  EXPECT_THAT(as_text, testing::Not(testing::Contains(id("<|im_start|>"))));
  EXPECT_EQ(tokenizer_.decode(as_text), text);
  const auto parsed = tokenizer_.encode(text, {.parse_special = true});
  EXPECT_THAT(parsed, ElementsAre(id("<|im_start|>"), 'a', id("<tool>s"), id("<|im_end|>")));
  EXPECT_EQ(tokenizer_.decode(parsed), "a<tool>s");
  EXPECT_EQ(tokenizer_.decode(parsed, true), text);
  EXPECT_EQ(tokenizer_.find_control("<|im_end|>"), id("<|im_end|>"));
  EXPECT_EQ(tokenizer_.find_control("<tool>"), kNoToken);
  EXPECT_EQ(tokenizer_.find_control("<|im_end|>x"), kNoToken);
  EXPECT_EQ(tokenizer_.find_control(""), kNoToken);
}

TEST_F(TokenizerTest, BosIsAddedWhereTheModelExpectsIt) {
  EXPECT_FALSE(tokenizer_.adds_bos());
  EXPECT_THAT(tokenizer_.encode("a", {.add_bos = true}), ElementsAre('a'));
  TokenizerSpec spec = vocabulary_.spec();
  spec.add_bos = true;
  EXPECT_THAT(Tokenizer::create(spec).value().encode("a", {.add_bos = true}),
              ElementsAre(tokenizer_.bos(), 'a'));
  EXPECT_THAT(Tokenizer::create(spec).value().encode("a"), ElementsAre('a'));
  spec.add_bos.reset();
  spec.pre_tokenizer = "llama3";
  EXPECT_TRUE(Tokenizer::create(spec).value().adds_bos());
  spec.bos = kNoToken;
  EXPECT_FALSE(Tokenizer::create(spec).value().adds_bos());
  spec.add_bos = true;
  expect_refused(Tokenizer::create(spec), ErrorCode::kParse, "none is given");
}

TEST_F(TokenizerTest, KnowsWhatEndsGeneration) {
  EXPECT_TRUE(tokenizer_.is_end_of_generation(id("<|endoftext|>")));
  EXPECT_TRUE(tokenizer_.is_end_of_generation(id("<|im_end|>")));  // by its name
  EXPECT_FALSE(tokenizer_.is_end_of_generation(id("<|im_start|>")));
  EXPECT_FALSE(tokenizer_.is_end_of_generation('a'));
  EXPECT_FALSE(tokenizer_.is_end_of_generation(kNoToken));
  TokenizerSpec spec = vocabulary_.spec();
  spec.eot = 'z';
  EXPECT_TRUE(Tokenizer::create(spec).value().is_end_of_generation('z'));
}

TEST_F(TokenizerTest, LlamaTakesWholeWordsWithoutMerges) {
  SmallVocabulary llama("llama-bpe");
  llama.add("xyz");
  llama.add("uvw", TokenType::kUserDefined);
  const Tokenizer tokenizer = std::move(Tokenizer::create(llama.spec())).value();
  EXPECT_THAT(tokenizer.encode("xyz"), ElementsAre(llama.id_of("xyz")));
  EXPECT_THAT(tokenizer.encode("xyzx"), ElementsAre('x', 'y', 'z', 'x'));
  EXPECT_THAT(tokenizer.encode("uvw"), ElementsAre(llama.id_of("uvw")));
}

TEST_F(TokenizerTest, IdsOutsideTheVocabularyAreRefused) {
  for (const int32_t bad : {-1, tokenizer_.vocab_size(), INT32_MAX, INT32_MIN}) {
    EXPECT_THROW(tokenizer_.token_bytes(bad), Error);
    EXPECT_THROW(tokenizer_.token_type(bad), Error);
    EXPECT_THROW(tokenizer_.is_control(bad), Error);
    EXPECT_FALSE(tokenizer_.is_end_of_generation(bad));
    try {
      tokenizer_.decode(std::vector<int32_t>{0, bad});
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.message(), HasSubstr("token id is " + std::to_string(bad)));
    }
  }
}

TEST_F(TokenizerTest, RefusesInconsistentVocabularies) {
  const auto refused = [&](const std::function<void(TokenizerSpec&)>& change, ErrorCode code,
                           const std::string& part) {
    TokenizerSpec spec = vocabulary_.spec();
    change(spec);
    expect_refused(Tokenizer::create(spec), code, part);
  };
  using Spec = TokenizerSpec;
  refused(
      [](Spec& s) {
        s.tokens.clear();
        s.types.clear();
      },
      ErrorCode::kParse, "has no tokens");
  refused([](Spec& s) { s.tokens[7] = ""; }, ErrorCode::kParse, "token 7 is empty");
  refused([](Spec& s) { s.types.pop_back(); }, ErrorCode::kParse, "273 token types for 274 tokens");
  refused([](Spec& s) { s.types[3] = TokenType{9}; }, ErrorCode::kParse, "token 3 has type 9");
  refused([](Spec& s) { s.types[3] = TokenType{0}; }, ErrorCode::kParse, "token 3 has type 0");
  refused([](Spec& s) { s.bos = 274; }, ErrorCode::kParse, "bos token is 274, must be 0 to 273");
  refused([](Spec& s) { s.eom = -5; }, ErrorCode::kParse, "eom token is -5");
  refused([](Spec& s) { s.pre_tokenizer = "x\ny"; }, ErrorCode::kUnsupported, "is 'x\\x0ay'");
  refused(
      [](Spec& s) {
        s.merges[2] = {"zz", "a"};
      },
      ErrorCode::kParse, "merge 2: its left part 'zz' is no text token");
  refused([](Spec& s) { s.merges[2] = {"a", "b c"}; }, ErrorCode::kParse, "its right part 'b c'");
  refused([](Spec& s) { s.merges[2] = {"z", "z"}; }, ErrorCode::kParse, "its result 'zz'");
  refused([](Spec& s) { s.types['z'] = TokenType::kControl; }, ErrorCode::kParse,
          "byte 0x7a has no token");
  // With an unknown token every text still has ids.
  Spec spec = vocabulary_.spec();
  spec.types['z'] = TokenType::kControl;
  spec.unknown = 'q';
  EXPECT_THAT(Tokenizer::create(spec).value().encode("z!"), ElementsAre('q', '!'));
}

TEST_F(TokenizerTest, ReadsModelFiles) {
  const Tokenizer tokenizer = std::move(from_bytes(vocabulary_.file().bytes())).value();
  EXPECT_EQ(tokenizer.vocab_size(), tokenizer_.vocab_size());
  EXPECT_EQ(tokenizer.merge_count(), vocabulary_.merges.size());
  EXPECT_EQ(tokenizer.pre_tokenizer(), "qwen2");
  EXPECT_EQ(tokenizer.bos(), id("<|endoftext|>"));
  EXPECT_EQ(tokenizer.eos(), id("<|im_end|>"));
  EXPECT_EQ(tokenizer.padding(), kNoToken);
  EXPECT_EQ(tokenizer.chat_template(), "{{ messages }}");
  const std::string text = "<|im_start|>hello aaaa";
  EXPECT_EQ(tokenizer.encode(text, {.parse_special = true}),
            tokenizer_.encode(text, {.parse_special = true}));
}

TEST_F(TokenizerTest, RefusesModelFilesByKey) {
  using F = GgufTestFile;
  expect_refused(from_bytes(F().bytes()), ErrorCode::kNotFound,
                 "'tokenizer.ggml.model' is missing");
  expect_refused(from_bytes(F().text("tokenizer.ggml.model", "bert").bytes()),
                 ErrorCode::kUnsupported, "tokenizer.ggml.model is 'bert'");
  for (const std::string merge : {"", "ab", " ab", "ab ", " "}) {
    SmallVocabulary damaged;
    damaged.merges[2] = merge;
    expect_refused(from_bytes(damaged.file().bytes()), ErrorCode::kParse, "merge 2 is '");
  }
  expect_refused(from_bytes(F().text("tokenizer.ggml.model", "gpt2").bytes()), ErrorCode::kNotFound,
                 "'tokenizer.ggml.tokens' is missing");
  expect_refused(from_bytes(F().text("tokenizer.ggml.model", "gpt2")
                                .array<int32_t>("tokenizer.ggml.tokens", {1})
                                .bytes()),
                 ErrorCode::kParse, "'tokenizer.ggml.tokens' is array of 1 i32");
  expect_refused(
      from_bytes(
          F().text("tokenizer.ggml.model", "gpt2").texts("tokenizer.ggml.tokens", {"a"}).bytes()),
      ErrorCode::kNotFound, "'tokenizer.ggml.merges' is missing");
  for (const char* name : {"eot", "eom", "padding", "unknown"}) {
    F file = vocabulary_.file();
    const std::string key = std::string("tokenizer.ggml.") + name + "_token_id";
    file.scalar<uint64_t>(key, uint64_t{1} << 40);
    expect_refused(from_bytes(file.bytes()), ErrorCode::kParse,
                   key + " is 1099511627776, the vocabulary has 274 tokens");
  }
}

TEST_F(TokenizerTest, ReadsSentencePieceFromModelFiles) {
  const Tokenizer tokenizer = std::move(from_bytes(small_sentencepiece_file().bytes())).value();
  EXPECT_EQ(tokenizer.pre_tokenizer(), "spm");
  EXPECT_TRUE(tokenizer.adds_bos());
  // The higher score first: the mark and the a before the a and the b.
  EXPECT_THAT(tokenizer.encode("ab", {.add_bos = true}), ElementsAre(1, 262));
  EXPECT_THAT(tokenizer.encode("bab"), ElementsAre(263, 265, 261));
  // Pieces of equal score: the leftmost first.
  EXPECT_THAT(tokenizer.encode("  b"), ElementsAre(260, 263, 265));
  EXPECT_THAT(tokenizer.encode("b<tool>a"), ElementsAre(263, 265, 266, 259));
  EXPECT_THAT(tokenizer.encode("<s>"),
              ElementsAre(263, 3 + '<', 3 + 's', 3 + '>'));  // text unless parsed
  for (const std::string text : {"ab  b", "\xf0\x9f\xa6\x99", "\xff\n", " "}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST_F(TokenizerTest, RefusesInconsistentSentencePieceFiles) {
  GgufTestFile few = small_sentencepiece_file();
  few.array<float>("tokenizer.ggml.scores", {1.0f});
  expect_refused(from_bytes(few.bytes()), ErrorCode::kParse, "scores");
  TokenizerSpec spec;
  spec.source = "test";
  spec.spelling = TokenSpelling::kSentencePiece;
  spec.tokens = {"<0x0G>", "a"};
  spec.types = {TokenType::kByte, TokenType::kNormal};
  spec.scores = {0, 0};
  expect_refused(Tokenizer::create(spec), ErrorCode::kParse, "byte token 0 is '<0x0G>'");
  spec.tokens[0] = "<0x0A>";
  expect_refused(Tokenizer::create(spec), ErrorCode::kParse, "byte 0x00 has no token");
  spec.unknown = 1;
  EXPECT_TRUE(Tokenizer::create(spec).ok());
  spec.scores = {0, 0, 0};
  expect_refused(Tokenizer::create(spec), ErrorCode::kParse, "3 scores for 2 tokens");
  spec.scores = {0, std::numeric_limits<float>::quiet_NaN()};
  expect_refused(Tokenizer::create(spec), ErrorCode::kParse, "the score of token 1 is not a");
  const std::string longest(Vocabulary::kMaxPieceBytes + 1, 'x');
  spec.scores = {0, 0};
  spec.tokens[1] = longest;
  expect_refused(Tokenizer::create(spec), ErrorCode::kParse, "has 1025 bytes, at most 1024");
}

// Whatever a file says, reading it ends in a tokenizer that works or in one line.
TEST_F(TokenizerTest, DamagedFilesNeverCrash) {
  const std::string whole = vocabulary_.file().bytes();
  std::mt19937 random(9);
  int accepted = 0;
  const std::string text = "hello <|im_end|> aaaa \xf0\x9f 12";
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = whole;
    for (auto flips = 1 + random() % 3; flips > 0; --flips) {
      damaged[random() % damaged.size()] ^= static_cast<char>(1u << random() % 8);
    }
    Result<Tokenizer> tokenizer = from_bytes(damaged);
    if (!tokenizer.ok()) continue;
    ++accepted;
    tokenizer.value().decode(tokenizer.value().encode(text, {.add_bos = true}));
    tokenizer.value().decode(tokenizer.value().encode(text, {.parse_special = true}));
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 3000);
}

}  // namespace
}  // namespace freekv
