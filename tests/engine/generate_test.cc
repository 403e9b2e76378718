#include <gtest/gtest.h>

#include <atomic>

#include "freekv/engine.hpp"
#include "tiny_model.hpp"

namespace freekv {
namespace {

class Generate : public testing::Test {
 protected:
  Generate() {
    options_.model = model_.path();
    options_.context = 256;
    options_.threads = 1;
    options_.chunk = 16;
  }

  TemporaryModel model_;
  EngineOptions options_;
};

TEST_F(Generate, StreamsTheTextOfItsTokens) {
  Engine engine(options_);
  const auto sequence = engine.new_sequence();
  const auto prompt = engine.encode("a prompt of some length", false);
  std::string text;
  std::vector<int64_t> progress;
  const GenerateResult result =
      generate(engine, *sequence,
               {.prompt = prompt,
                .max_tokens = 30,
                .sampling = {.temperature = 1, .seed = 5},
                .on_prefill = [&](int64_t done) { progress.push_back(done); },
                .on_text = [&](std::string_view piece) { text += piece; }});
  EXPECT_EQ(text, engine.decode(result.tokens));
  EXPECT_EQ(progress, (std::vector<int64_t>{16, 23}));
  EXPECT_LE(result.decode_steps, static_cast<int64_t>(result.tokens.size()));
}

TEST_F(Generate, StopsAtLengthContextAndCancel) {
  Engine engine(options_);
  const auto prompt = engine.encode("0123456789", false);
  // A penalty cannot end the text: exclude the end token by taking only the best token.
  const auto short_sequence = engine.new_sequence(20);
  GenerateResult result = generate(engine, *short_sequence, {.prompt = prompt, .max_tokens = 1000});
  if (result.end != GenerateResult::End::kEndToken) {
    EXPECT_EQ(result.end, GenerateResult::End::kContext);
    EXPECT_EQ(result.tokens.size(), 11u);  // the last is sampled from the full context
  }
  const auto sequence = engine.new_sequence();
  result = generate(engine, *sequence, {.prompt = prompt, .max_tokens = 0});
  EXPECT_TRUE(result.tokens.empty());

  const std::atomic<bool> cancel{true};
  result = generate(engine, *sequence, {.prompt = prompt, .max_tokens = 5, .cancel = &cancel});
  EXPECT_EQ(result.end, GenerateResult::End::kCancelled);
  EXPECT_TRUE(result.tokens.empty());
  // A cancelled sequence serves the next request.
  result = generate(engine, *sequence, {.prompt = prompt, .max_tokens = 3});
  EXPECT_NE(result.end, GenerateResult::End::kCancelled);
}

TEST_F(Generate, ChatPromptIsTheModelsOwn) {
  Engine engine(options_);
  const std::vector<ChatMessage> turns = {{"system", "s"}, {"user", "hi"}, {"assistant", "yo"}};
  EXPECT_EQ(engine.chat_prompt(std::span(turns).subspan(1, 1)),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(engine.chat_prompt(turns, false),
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
            "<|im_start|>assistant\nyo<|im_end|>\n");
  const auto ids = engine.encode(engine.chat_prompt(turns), true);
  EXPECT_EQ(ids.front(), 256);
  EXPECT_TRUE(engine.is_end(257));
}

TEST_F(Generate, APromptBeginsAsTheModelExpects) {
  const std::string text = "a <|im_end|>";  // special tokens in a prompt are text
  Engine plain(options_);
  EXPECT_EQ(plain.encode_prompt(text), plain.encode(text, false));
  EXPECT_EQ(plain.encode_prompt(text).front(), 'a');
  const TemporaryModel model(tiny_model_records({.begins = true}));
  options_.model = model.path();
  Engine begins(options_);
  const auto prompt = begins.encode_prompt(text);
  EXPECT_EQ(prompt.front(), 256);
  EXPECT_EQ(std::vector(prompt.begin() + 1, prompt.end()), begins.encode(text, false));
}

std::string chat_error(const std::string& source, ErrorCode code) {
  TinyModelShape shape;
  shape.chat_template = source;
  const TemporaryModel model(tiny_model_records(shape));
  EngineOptions options;
  options.model = model.path();
  options.context = 64;
  Engine engine(options);
  const std::vector<ChatMessage> turns = {{"user", "hi"}};
  try {
    return "rendered: " + engine.chat_prompt(turns);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    const std::string_view what = error.what();
    EXPECT_TRUE(what.starts_with(model.path())) << what;
    return std::string(what.substr(model.path().size()));
  }
}

TEST_F(Generate, ChatPromptErrorsNameTheTemplatesPlace) {
  EXPECT_EQ(chat_error("\n{% include 'x' %}", ErrorCode::kUnsupported),
            ": tokenizer.chat_template: line 2: the tag 'include' is not supported");
  EXPECT_EQ(chat_error("{{ raise_exception('no\nway') }}", ErrorCode::kInvalidArgument),
            ": tokenizer.chat_template: line 1: no way");
  EXPECT_EQ(chat_error("{{ messages[0].content", ErrorCode::kParse),
            ": tokenizer.chat_template: line 1: a tag without its end");
  // No BOS in this model: a template that writes it writes nothing.
  EXPECT_EQ(chat_error("{{ bos_token }}{{ eos_token }}", ErrorCode::kInternal),
            "rendered: <|im_end|>");
}

TEST_F(Generate, RefusesEnginesThatCannotBe) {
  const auto refused = [&](auto change) {
    EngineOptions options = options_;
    change(options);
    try {
      Engine engine(options);
      const auto sequence = engine.new_sequence();
    } catch (const Error& error) {
      return error.code() != ErrorCode::kInternal;
    }
    return false;
  };
  EXPECT_TRUE(refused([](EngineOptions& o) { o.context = 1 << 20; }));
  EXPECT_TRUE(refused([](EngineOptions& o) { o.page = 0; }));
  EXPECT_TRUE(refused([](EngineOptions& o) { o.threads = -1; }));
  EXPECT_TRUE(refused([](EngineOptions& o) { o.backend = "abacus"; }));
  EXPECT_TRUE(refused([](EngineOptions& o) { o.kv_type = "q8"; }));
  EXPECT_TRUE(refused([](EngineOptions& o) { o.window = 0; }));
  EXPECT_TRUE(refused([](EngineOptions& o) { o.device_kv = 1000; }));
  EXPECT_TRUE(refused([](EngineOptions& o) {
    o.policy = "freekv";
    o.budget = 96;
    o.host_kv = 1000;
  }));
}

}  // namespace
}  // namespace freekv
