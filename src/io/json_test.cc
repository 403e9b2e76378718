#include "io/json.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace freekv {
namespace {

using testing::HasSubstr;

/// What reading `key` as T says; "" when it succeeds.
template <typename Read>
std::string error_of(const std::string& text, Read read) {
  try {
    const JsonFile file = JsonFile::parse(text, "config.json").value();
    read(file.root());
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("config.json: "));
    return error.message();
  }
  return "";
}

TEST(Json, ReadsFieldsAndTakesNullForAbsent) {
  const JsonFile file =
      JsonFile::parse(R"({"n":3,"x":1e-5,"b":true,"s":"text","l":["a"],"i":[1,2],"z":null,
                          "o":{"type":"yarn"}})",
                      "config.json")
          .value();
  const JsonObject root = file.root();
  EXPECT_EQ(root.find_u64("n"), 3u);
  EXPECT_EQ(root.find_number("n"), 3.0);
  EXPECT_EQ(root.find_number("x"), 1e-5);
  EXPECT_EQ(root.find_bool("b"), true);
  EXPECT_EQ(root.find_string("s"), "text");
  EXPECT_EQ(root.find_strings("l"), std::vector<std::string>{"a"});
  EXPECT_EQ(root.find_u64s("i"), (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(root.find_u64s("n"), std::vector<uint64_t>{3});
  EXPECT_EQ(root.find_object("o")->label("type"), "o.type");
  EXPECT_FALSE(root.has("z"));
  EXPECT_FALSE(root.find_u64("absent").has_value());
}

TEST(Json, WrongTypesNameFieldAndValue) {
  const auto u64 = [](const JsonObject& root) { root.find_u64("n"); };
  EXPECT_THAT(error_of(R"({"n":-3})", u64), HasSubstr("n is -3, must be an integer"));
  EXPECT_THAT(error_of(R"({"n":2.5})", u64), HasSubstr("n is 2.5"));
  EXPECT_THAT(error_of(R"({"n":"3\n"})", u64), HasSubstr("n is '3\\x0a'"));
  EXPECT_THAT(error_of(R"({"n":{}})", u64), HasSubstr("n is an object"));
  EXPECT_THAT(error_of(R"({"n":[1,2]})", u64), HasSubstr("n is an array of 2"));
  EXPECT_THAT(error_of("[]", u64), HasSubstr("must be an object"));
  EXPECT_THAT(error_of(R"({"n":[1,-1]})", [](const JsonObject& root) { root.find_u64s("n"); }),
              HasSubstr("n is -1"));
  EXPECT_THAT(error_of(R"({"n":{"k":[]}})",
                       [](const JsonObject& root) { root.find_object("n")->find_bool("k"); }),
              HasSubstr("n.k is an array"));
  // Where keys are the file's own they can neither break the line nor fill the screen.
  EXPECT_THAT(error_of(R"({"n":{"a\n\u00e9":3}})",
                       [](const JsonObject& root) {
                         const JsonObject object = *root.find_object("n");
                         object.find_string(object.keys()[0]);
                       }),
              HasSubstr("n.'a\\x0a\\xc3\\xa9' is 3, must be a string"));
}

TEST(Json, NumbersThatAreNoJsonNameTheirField) {
  const auto nothing = [](const JsonObject&) {};
  for (const char* value : {"NaN", "Infinity", "-Infinity", "1e999", "0x10", "", "tru"}) {
    const std::string text = std::string(R"({"a":1,"rms_norm_eps":)") + value + "}";
    EXPECT_THAT(error_of(text, nothing), HasSubstr("'rms_norm_eps'")) << value;
  }
}

TEST(Json, DeepNestingIsRefused) {
  EXPECT_THAT(error_of("{\"deep\":" + std::string(200000, '['), [](const JsonObject&) {}),
              HasSubstr("'deep'"));
}

}  // namespace
}  // namespace freekv
