#include "io/safetensors.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/safetensors_test_file.hpp"

namespace freekv {
namespace {

using testing::HasSubstr;

Result<Safetensors> parse(const std::string& bytes) {
  return Safetensors::parse(std::as_bytes(std::span(bytes)), "file");
}

TEST(Safetensors, ReadsTensorsOfAnyTypeAndOrder) {
  std::string header = safetensors_header(
      {R"("__metadata__":{"format":"pt"})", safetensors_entry("w", "BF16", "2,3", 8, 20),
       safetensors_entry("ids", "I64", "1", 0, 8), safetensors_entry("scalar", "F32", "", 20, 24),
       safetensors_entry("none", "F16", "0,7", 24, 24)});
  header += "  ";  // as writers pad it
  const std::string bytes = safetensors_bytes(header, std::string(24, 'x'));
  const Safetensors file = parse(bytes).value();
  ASSERT_EQ(file.tensors().size(), 4u);
  const SafetensorsInfo* w = file.find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->type->dtype, DType::kBF16);
  EXPECT_THAT(w->extents(), testing::ElementsAre(2, 3));
  EXPECT_EQ(w->bytes, 12u);
  EXPECT_EQ(file.data(*w),
            reinterpret_cast<const std::byte*>(bytes.data()) + 8 + header.size() + 8);
  EXPECT_FALSE(file.find("ids")->type->dtype.has_value());
  EXPECT_EQ(file.find("scalar")->dimensions, 0u);
  EXPECT_EQ(file.find("none")->bytes, 0u);
  EXPECT_EQ(file.find("other"), nullptr);
}

TEST(Safetensors, TruncationAnywhereIsRefused) {
  const std::string bytes = safetensors_bytes(
      safetensors_header({safetensors_entry("w", "F32", "2", 0, 8)}), std::string(8, '\0'));
  ASSERT_TRUE(parse(bytes).ok());
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(parse(bytes.substr(0, length)).ok()) << length;
  }
  EXPECT_FALSE(parse(bytes + "x").ok());
}

TEST(Safetensors, HostileHeadersNameTheFieldAndBothValues) {
  const std::string w = safetensors_entry("w", "F32", "2", 0, 8);
  const std::string data(8, '\0');
  struct Case {
    std::string header;
    const char* expected;
  };
  const Case cases[] = {
      {"[]", "array"},
      {safetensors_header({w}).substr(0, 40), "no JSON"},
      {"{\"w\":3}", "'w' in the header is 3"},
      {R"({"w":{"dtype":"F32","shape":[2]}})", "no data_offsets"},
      {R"({"w":{"shape":[2],"data_offsets":[0,8]}})", "no dtype"},
      {R"({"w":{"dtype":"F32","data_offsets":[0,8]}})", "no shape"},
      {R"({"w":{"dtype":"Q4","shape":[2],"data_offsets":[0,8]}})", "'Q4'"},
      {R"({"w":{"dtype":7,"shape":[2],"data_offsets":[0,8]}})", "dtype"},
      {R"({"w":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", "holds -2"},
      {R"({"w":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", "holds '2.5'"},
      {R"({"w":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})", "an array"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}})", "3 numbers"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", "8 to 0"},
      {R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})",
       "0 to 8, its F32 shape takes 12"},
      {R"({"w":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", "too many"},
      {R"({"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})", "too many"},
      {R"({"w":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}})", "any file"},
      {R"({"w":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8]}})", "8 dimensions"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}})", "'more'"},
      {safetensors_header({safetensors_entry("w", "F32", "2", 4, 12)}), "the file has 8 bytes"},
      {safetensors_header({safetensors_entry("w", "F32", "1", 4, 8)}), "begin at 4"},
      {safetensors_header({safetensors_entry("w", "F32", "1", 0, 4)}),
       "take 4 bytes, the file has 8"},
      {safetensors_header({w, safetensors_entry("v", "F32", "1", 4, 8)}), "begin at 4"},
      {safetensors_header({w, w}), "occurs twice"},
      {R"({"__metadata__":{"a":1}})", "__metadata__"},
      {std::string(100000, '['), "array"},
      {"{\"\xff\":1}", "no JSON"},
  };
  for (const Case& c : cases) {
    const auto file = parse(safetensors_bytes(c.header, data));
    ASSERT_FALSE(file.ok()) << c.header;
    EXPECT_THAT(file.error().what(), testing::AllOf(HasSubstr(c.expected), HasSubstr("file: ")));
  }
}

TEST(Safetensors, HeaderSizesThatLieAreRefused) {
  const std::string header = safetensors_header({safetensors_entry("w", "F32", "2", 0, 8)});
  for (const uint64_t claimed : {uint64_t{0}, header.size() - 1, header.size() + 1,
                                 header.size() + 9, uint64_t{1} << 40, UINT64_MAX - 1}) {
    EXPECT_FALSE(parse(safetensors_bytes(header, std::string(8, '\0'), claimed)).ok()) << claimed;
  }
}

}  // namespace
}  // namespace freekv
