#include "tokenizer/stream_decoder.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "tokenizer/tokenizer_test_vocab.hpp"
#include "tokenizer/utf8.hpp"

namespace freekv {
namespace {

class StreamDecoderTest : public testing::Test {
 protected:
  std::string push(StreamDecoder& decoder, std::string_view bytes) {
    std::string text;
    for (const char c : bytes) text += decoder.push(static_cast<uint8_t>(c));  // id = byte
    return text;
  }
  const SmallVocabulary vocabulary_;
  const Tokenizer tokenizer_ = std::move(Tokenizer::create(vocabulary_.spec())).value();
};

TEST_F(StreamDecoderTest, HoldsACharacterBackUntilItIsWhole) {
  StreamDecoder decoder(tokenizer_);
  EXPECT_EQ(decoder.push('a'), "a");
  EXPECT_EQ(decoder.push(0xf0), "");
  EXPECT_EQ(decoder.push(0x9f), "");
  EXPECT_EQ(decoder.push(0xa6), "");
  EXPECT_EQ(decoder.push(0x99), "\xf0\x9f\xa6\x99");
  EXPECT_EQ(decoder.push('b'), "b");
  EXPECT_EQ(decoder.flush(), "");
}

TEST_F(StreamDecoderTest, PassesOnBytesThatBecomeNoCharacter) {
  StreamDecoder decoder(tokenizer_);
  EXPECT_EQ(decoder.push(0xff), "\xff");
  EXPECT_EQ(push(decoder, "\xe2\x82"), "");
  EXPECT_EQ(decoder.push('x'), "\xe2\x82x");
  EXPECT_EQ(push(decoder, "\xe2"), "");
  EXPECT_EQ(decoder.push(0xe2), "\xe2");  // the second one may still become a character
  EXPECT_EQ(decoder.flush(), "\xe2");
  EXPECT_EQ(decoder.flush(), "");
  EXPECT_EQ(decoder.push('y'), "y");
}

TEST_F(StreamDecoderTest, ControlTokensAreLeftOutUnlessAskedFor) {
  const int32_t end = vocabulary_.id_of("<|im_end|>");
  const int32_t tool = vocabulary_.id_of("<tool>");
  StreamDecoder plain(tokenizer_);
  EXPECT_EQ(plain.push(end), "");
  EXPECT_EQ(plain.push(tool), "<tool>");
  StreamDecoder special(tokenizer_, true);
  EXPECT_EQ(special.push(end), "<|im_end|>");
  EXPECT_EQ(push(special, "\xc3"), "");
  EXPECT_EQ(special.push(end), "\xc3<|im_end|>");
}

TEST_F(StreamDecoderTest, AnIdOutsideTheVocabularyChangesNothing) {
  StreamDecoder decoder(tokenizer_);
  EXPECT_EQ(decoder.push(0xc3), "");
  EXPECT_THROW(decoder.push(tokenizer_.vocab_size()), Error);
  EXPECT_THROW(decoder.push(-1), Error);
  EXPECT_EQ(decoder.push(0xa9), "\xc3\xa9");
}

TEST_F(StreamDecoderTest, PiecesJoinToTheTextAndEndBetweenCharacters) {
  const bool holds = rc::check("stream == decode", [&] {
    const auto ids =
        *rc::gen::container<std::vector<int32_t>>(rc::gen::inRange(0, tokenizer_.vocab_size()));
    const std::string text = tokenizer_.decode(ids);
    std::vector<bool> inside(text.size() + 1, false);  // a character, at this place
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = utf8_step(std::string_view(text).substr(at));
      const size_t length = step.state == Utf8State::kValid ? step.length : 1;
      for (size_t i = 1; i < length; ++i) inside[at + i] = true;
      at += length;
    }
    StreamDecoder decoder(tokenizer_);
    std::string joined;
    for (const int32_t id : ids) {
      joined += decoder.push(id);
      RC_ASSERT(joined.size() <= text.size());
      RC_ASSERT(!inside[joined.size()]);
    }
    joined += decoder.flush();
    RC_ASSERT(joined == text);
  });
  EXPECT_TRUE(holds);
}

}  // namespace
}  // namespace freekv
