#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "support/scratch_folder.hpp"
#include "tokenizer/stream_decoder.hpp"
#include "tokenizer/tokenizer.hpp"
#include "tokenizer/tokenizer_test_json.hpp"

namespace freekv {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

// A checkpoint folder that goes away with the test.
class Folder : public testing_support::ScratchFolder {
 public:
  explicit Folder(const json& tokenizer) { write("tokenizer.json", tokenizer.dump()); }
  Tokenizer open() const { return std::move(Tokenizer::from_folder(path())).value(); }
};

Tokenizer from(const json& document) {
  return std::move(Tokenizer::from_json(document.dump(), "tokenizer.json")).value();
}

void expect_refused(const std::string& bytes, ErrorCode code, const std::string& part) {
  const Result<Tokenizer> result = Tokenizer::from_json(bytes, "tokenizer.json");
  ASSERT_FALSE(result.ok()) << "accepted, expected: " << part;
  EXPECT_EQ(result.error().code(), code) << result.error().what();
  EXPECT_EQ(result.error().where(), "tokenizer.json");
  EXPECT_THAT(result.error().message(), HasSubstr(part));
  EXPECT_THAT(result.error().message(), testing::Not(HasSubstr("\n")));
}

TEST(TokenizerFolder, GivesTheIdsOfTheSameVocabularyInGguf) {
  for (const std::string family : {"gpt-2", "llama-bpe", "qwen2", "tekken"}) {
    SmallVocabulary small(family);
    const Tokenizer expected = std::move(Tokenizer::create(small.spec())).value();
    json document = small_byte_level_json(family);
    document["model"]["ignore_merges"] = family == "llama-bpe" || family == "tekken";
    const Tokenizer tokenizer = from(document);
    EXPECT_EQ(tokenizer.pre_tokenizer(), family);
    for (const std::string text :
         {"hello hello", "  aaaaaaa\n\n12 1234", "<tool>s<|im_end|>x<tool>", "it'S HELLO hELLo",
          "\xf0\x9f\xa6\x99\xff"}) {
      for (const bool special : {false, true}) {
        EXPECT_EQ(tokenizer.encode(text, {.parse_special = special}),
                  expected.encode(text, {.parse_special = special}));
      }
    }
  }
}

TEST(TokenizerFolder, MergesArePairsOrStrings) {
  json document = small_byte_level_json();
  json pairs = json::array();
  for (const std::string merge : document["model"]["merges"]) {
    pairs.push_back({merge.substr(0, merge.find(' ')), merge.substr(merge.find(' ') + 1)});
  }
  const auto expected = from(document).encode("hello hello aaaa");
  document["model"]["merges"] = pairs;
  EXPECT_EQ(from(document).encode("hello hello aaaa"), expected);
}

TEST(TokenizerFolder, ComposesWhereTheNormalizerSaysSo) {
  json document = small_byte_level_json();
  const std::string apart = "e\xcc\x81";
  EXPECT_EQ(from(document).decode(from(document).encode(apart)), "\xc3\xa9");
  document["normalizer"] = nullptr;
  EXPECT_EQ(from(document).decode(from(document).encode(apart)), apart);
}

TEST(TokenizerFolder, ReadsWhatStandsBesideIt) {
  const SmallVocabulary small;
  const int32_t end = small.id_of("<|im_end|>");
  const int32_t text_end = small.id_of("<|endoftext|>");
  Folder folder(small_byte_level_json());
  EXPECT_EQ(folder.open().eos(), kNoToken);
  EXPECT_EQ(folder.open().chat_template(), std::nullopt);
  EXPECT_FALSE(folder.open().adds_bos());

  folder.write("special_tokens_map.json",
               R"({"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"})");
  EXPECT_EQ(folder.open().eos(), text_end);
  folder.write("tokenizer_config.json", json({{"eos_token", {{"content", "<|im_end|>"}}},
                                              {"pad_token", nullptr},
                                              {"chat_template", "{{ a }}"}})
                                            .dump());
  EXPECT_EQ(folder.open().eos(), end);
  EXPECT_EQ(folder.open().bos(), text_end);
  EXPECT_EQ(folder.open().padding(), kNoToken);
  EXPECT_EQ(folder.open().chat_template(), "{{ a }}");
  EXPECT_FALSE(folder.open().adds_bos());
  folder.write("chat_template.jinja", "{{ b }}\n");
  EXPECT_EQ(folder.open().chat_template(), "{{ b }}\n");

  EXPECT_FALSE(folder.open().is_end_of_generation('a'));
  folder.write("config.json", R"({"eos_token_id": 97})");
  EXPECT_TRUE(folder.open().is_end_of_generation('a'));
  folder.write("generation_config.json", R"({"eos_token_id": [98, 99]})");
  EXPECT_FALSE(folder.open().is_end_of_generation('a'));
  EXPECT_TRUE(folder.open().is_end_of_generation('c'));

  folder.write("tokenizer_config.json",
               R"({"tokenizer_class": "LlamaTokenizerFast", "add_bos_token": true,
                   "chat_template": [{"name": "tools", "template": "t"},
                                     {"name": "default", "template": "d"}]})");
  std::filesystem::remove(folder.file("chat_template.jinja"));
  EXPECT_TRUE(folder.open().adds_bos());
  EXPECT_EQ(folder.open().chat_template(), "d");
}

TEST(TokenizerFolder, ErrorsNameTheFile) {
  Folder folder(small_byte_level_json());
  const auto refused = [&](const std::string& name, const std::string& text,
                           const std::string& part) {
    folder.write(name, text);
    const Result<Tokenizer> result = Tokenizer::from_folder(folder.path());
    ASSERT_FALSE(result.ok()) << part;
    EXPECT_EQ(result.error().where(), folder.path() + "/" + name);
    EXPECT_THAT(result.error().message(), HasSubstr(part));
    folder.write(name, "{}");
  };
  refused("generation_config.json", R"({"eos_token_id": [1, 5000]})",
          "eos_token_id[1] is 5000, must be 0 to 273");
  refused("generation_config.json", R"({"eos_token_id": "x"})",
          "eos_token_id is 'x', must be an integer");
  refused("tokenizer_config.json", R"({"chat_template": 1})",
          "chat_template is 1, must be a string");
  refused("tokenizer_config.json", R"(["eos_token"])", "the document is an array of 1");
  refused("special_tokens_map.json", "{", "is no JSON at byte");
  const Result<Tokenizer> none = Tokenizer::from_folder(folder.path() + "/none");
  ASSERT_FALSE(none.ok());
  EXPECT_EQ(none.error().code(), ErrorCode::kNotFound);
}

TEST(TokenizerFolder, RefusesOtherComponentsByName) {
  struct Case {
    const char* at;
    json value;
    ErrorCode code;
    const char* part;
  };
  const auto unsupported = ErrorCode::kUnsupported;
  const auto parse = ErrorCode::kParse;
  json unknown_token = template_processing("<s>", 1);
  unknown_token["single"][0]["SpecialToken"]["id"] = "\u0112\n";
  const Case cases[] = {
      {"/model/type", "WordPiece", unsupported, "model.type is 'WordPiece', the one supported"},
      {"/model/dropout", 0.1, unsupported, "model.dropout is 0.1"},
      {"/model/end_of_word_suffix", "</w>", unsupported, "model.end_of_word_suffix is '</w>'"},
      {"/model/unk_token", "<none>", parse, "model.unk_token is '<none>'"},
      {"/model/vocab", json::array({"a"}), parse, "model.vocab has no tokens"},
      {"/model/vocab/a", "b", parse, "has an id that is no integer"},
      {"/model/vocab/a", -1, parse, "token 'a' has id -1, must be 0 to"},
      {"/model/vocab/a", 2000000000, parse, "token 'a' has id 2000000000, must be 0 to"},
      {"/model/vocab/a", 98, parse, "have the same id 98"},
      {"/model/merges/0", json::array({"a"}), parse, "merge 0 is neither a string nor a pair"},
      {"/model/merges/0", json::array({"a", "a", "a"}), parse, "merge 0 is neither"},
      {"/model/merges/1", 5, parse, "merge 1 is neither a string nor a pair"},
      {"/model/merges/1", "aa", parse, "merge 1 is 'aa', must be two tokens"},
      {"/model/merges/1", "q z", parse, "merge 1: its result 'qz' is no text token"},
      {"/normalizer/type", "Lowercase", unsupported, "normalizer.type is 'Lowercase'"},
      {"/normalizer", json::object(), parse, "normalizer.type is missing or null"},
      {"/pre_tokenizer/type", "Whitespace", unsupported, "pre_tokenizer.type is 'Whitespace'"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\w+", unsupported,
       "pre_tokenizer.pretokenizers[0].pattern.Regex is '\\w+'"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Removed", unsupported, "behavior is 'Removed'"},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", true, unsupported, "add_prefix_space"},
      {"/pre_tokenizer/pretokenizers/1/use_regex", true, unsupported, "use_regex is true"},
      {"/pre_tokenizer/pretokenizers", json::array(), unsupported, "is an array of 0"},
      {"/pre_tokenizer", nullptr, unsupported, "normalizer is an object, supported is Replace"},
      {"/decoder/type", "WordPiece", unsupported, "decoder.type is 'WordPiece'"},
      {"/decoder", nullptr, parse, "decoder is missing or null"},
      {"/post_processor/type", "BertProcessing", unsupported, "post_processor.type is"},
      {"/post_processor", template_processing("<s>", 99999), parse, "its token 99999"},
      {"/post_processor", unknown_token, parse,
       "post_processor.special_tokens.'\\xc4\\x92\\x0a' is missing or null, must be an object"},
      {"/added_tokens/0/content", "", parse, "added_tokens[0].content is ''"},
      {"/added_tokens/0/id", 97, parse, "but token 97 is 'a'"},
      {"/added_tokens/0/id", 1.5, parse, "added_tokens[0].id is 1.5, must be an integer"},
      {"/added_tokens/0/content", "a", parse, "has another id than 97"},
      {"/added_tokens/0/special", "yes", parse, "added_tokens[0].special is 'yes'"},
      {"/added_tokens/0/content", std::string(300, 'x'), parse, "has 300 bytes, at most 256"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.at);
    json document = small_byte_level_json();
    document[json::json_pointer(c.at)] = c.value;
    expect_refused(document.dump(), c.code, c.part);
  }
}

TEST(TokenizerFolder, RefusesOtherSentencePieceFormsByName) {
  const auto refused = [](const char* at, const json& value, const std::string& part) {
    json document = small_sentencepiece_json();
    document[json::json_pointer(at)] = value;
    SCOPED_TRACE(at);
    expect_refused(document.dump(), ErrorCode::kUnsupported, part);
  };
  refused("/normalizer", nullptr, "normalizer is missing or null, supported is Replace");
  refused("/normalizer/normalizers/0/prepend", "_", "prepend is '_', supported is U+2581");
  refused("/normalizer/normalizers/1/pattern/String", "x", "pattern.String is 'x'");
  refused("/decoder/decoders/1/type", "CTC", "decoder.decoders[1].type is 'CTC'");
  refused("/decoder/decoders/3/start", 2, "decoder.decoders[3].start is 2, supported is 1");
  refused("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", std::string(kSpaceMark)}},
          "without normalizers of spaces only");
}

TEST(TokenizerFolder, SentencePieceMarksSpacesAndFallsBackToBytes) {
  const Tokenizer tokenizer = from(small_sentencepiece_json());
  const int32_t mark = 259;
  const int32_t mark_a = mark + 3;
  const int32_t ab = mark + 4;
  const int32_t mark_ab = mark + 5;
  EXPECT_EQ(tokenizer.pre_tokenizer(), "spm");
  EXPECT_THAT(tokenizer.encode(""), ElementsAre());
  EXPECT_THAT(tokenizer.encode("ab ab"), ElementsAre(mark_ab, mark_ab));
  EXPECT_THAT(tokenizer.encode("ab", {.add_bos = true}), ElementsAre(1, mark_ab));
  EXPECT_THAT(tokenizer.encode("bab"), ElementsAre(mark, mark + 2, ab));
  EXPECT_THAT(tokenizer.encode("\xc3\xa9\xe2\x82\xac"),
              ElementsAre(mark, mark + 7, 3 + 0xe2, 3 + 0x82, 3 + 0xac));
  // After a special token the text begins anew, and a mark written out is a space.
  EXPECT_THAT(tokenizer.encode("<s>a", {.parse_special = true}), ElementsAre(1, mark_a));
  EXPECT_EQ(tokenizer.encode("b\xe2\x96\x81"
                             "a"),
            tokenizer.encode("b a"));
  for (const std::string text : {"ab ab", "  a", " ", "\xf0\x9f\xa6\x99 a\n", "\xff a", "<s>"}) {
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{1, mark_ab, mark_ab}), "ab ab");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{1, mark_ab}, true), "<s> ab");
}

TEST(TokenizerFolder, StreamsSentencePieceWithoutSplittingCharacters) {
  const Tokenizer tokenizer = from(small_sentencepiece_json());
  const std::vector<int32_t> ids = tokenizer.encode("\xe2\x82\xac ab\xf0\x9f\xa6\x99");
  for (const bool continues : {false, true}) {
    StreamDecoder stream(tokenizer, false, continues);
    std::vector<std::string> pieces;
    for (const int32_t id : ids) {
      const std::string_view piece = stream.push(id);
      if (!piece.empty()) pieces.emplace_back(piece);
    }
    EXPECT_EQ(stream.flush(), "");
    std::vector<std::string> expected = {"\xe2\x82\xac", " ab", "\xf0\x9f\xa6\x99"};
    if (continues) expected.insert(expected.begin(), " ");
    EXPECT_EQ(pieces, expected);
  }
}

TEST(TokenizerFolder, MetaspacePrefixesByItsScheme) {
  const int32_t mark = 259;
  const auto encode = [&](const std::string& scheme, bool split, const std::string& text) {
    json document = small_sentencepiece_json();
    document["normalizer"] = nullptr;
    document["pre_tokenizer"] = {{"type", "Metaspace"},
                                 {"replacement", std::string(kSpaceMark)},
                                 {"prepend_scheme", scheme},
                                 {"split", split}};
    return from(document).encode(text, {.parse_special = true});
  };
  EXPECT_THAT(encode("always", false, "a<s>a"), ElementsAre(mark + 3, 1, mark + 3));
  EXPECT_THAT(encode("first", false, "a<s>a"), ElementsAre(mark + 3, 1, mark + 1));
  EXPECT_THAT(encode("first", false, "<s>a"), ElementsAre(1, mark + 1));
  EXPECT_THAT(encode("never", false, "a<s>a"), ElementsAre(mark + 1, 1, mark + 1));
  EXPECT_THAT(encode("always", false, " a"), ElementsAre(mark + 3));
  EXPECT_THAT(encode("always", false, "   b"), ElementsAre(mark + 6, mark, mark + 2));
  EXPECT_THAT(encode("always", true, "   b"), ElementsAre(mark, mark, mark, mark + 2));
}

TEST(TokenizerFolder, UnknownCharactersFuseWhereTheModelSaysSo) {
  json document = small_sentencepiece_json();
  document["model"]["byte_fallback"] = false;
  EXPECT_THAT(from(document).encode("xya"), ElementsAre(259, 0, 260));
  document["model"]["fuse_unk"] = false;
  EXPECT_THAT(from(document).encode("xya"), ElementsAre(259, 0, 0, 260));
  document["model"]["unk_token"] = nullptr;
  expect_refused(document.dump(), ErrorCode::kParse, "byte 0x00 has no token");
}

TEST(TokenizerFolder, HostileDocumentsAreRefused) {
  const auto parse = ErrorCode::kParse;
  expect_refused("", parse, "is not JSON");
  expect_refused("nonsense", parse, "is not JSON");
  expect_refused("[]", parse, "the document is an array of 0, must be an object");
  expect_refused("{}", ErrorCode::kUnsupported, "normalizer is missing");
  expect_refused(std::string(1 << 20, '['), parse, "nested 33 deep");
  expect_refused("{\"model\":{\"vocab\":{\"a\":" + std::string(1 << 20, '{'), parse, "no integer");
  std::string many = "{\"x\":[[]";
  for (int i = 0; i < 200'000; ++i) many += ",[]";
  expect_refused(many + "]}", parse, "has more values than");
  expect_refused("{\"model\":{\"vocab\":{\"\xff\":1}}}", parse, "is not JSON");
  expect_refused("{\"model\":{\"vocab\":{\"\\ud800\":1}}}", parse, "is not JSON");
}

// Whatever the bytes are, reading them ends in a tokenizer that works or in one line.
TEST(TokenizerFolder, DamagedDocumentsNeverCrash) {
  std::mt19937 random(7);
  for (const std::string& whole :
       {small_byte_level_json().dump(), small_sentencepiece_json().dump()}) {
    for (size_t length = 0; length < whole.size(); length += 1 + whole.size() / 200) {
      EXPECT_FALSE(Tokenizer::from_json(whole.substr(0, length), "cut").ok());
    }
    int accepted = 0;
    for (int round = 0; round < 600; ++round) {
      std::string damaged = whole;
      for (auto changes = 1 + random() % 2; changes > 0; --changes) {
        damaged[random() % damaged.size()] ^= static_cast<char>(1u << random() % 7);
      }
      Result<Tokenizer> tokenizer = Tokenizer::from_json(damaged, "damaged");
      if (!tokenizer.ok()) continue;
      ++accepted;
      tokenizer.value().decode(tokenizer.value().encode("hello <s>ab \xf0\x9f <tool>s e\xcc\x81"));
    }
    EXPECT_GT(accepted, 0);
    EXPECT_LT(accepted, 600);
  }
}

}  // namespace
}  // namespace freekv
