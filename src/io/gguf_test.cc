#include "io/gguf.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>

#include "io/gguf_test_file.hpp"
#include "support/scratch_folder.hpp"

namespace freekv {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Result<Gguf> parse(const std::string& bytes) {
  return Gguf::parse(std::as_bytes(std::span(bytes)), "test.gguf");
}

void expect_throws(ErrorCode code, const std::string& part, const std::function<void()>& action) {
  try {
    action();
    ADD_FAILURE() << "nothing thrown, expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_EQ(error.where(), "test.gguf");
    EXPECT_THAT(error.message(), HasSubstr(part));
  }
}

// One entry of every type, and one tensor of every type this library reads and of one it does not.
GgufTestFile full_file() {
  GgufTestFile file;
  file.scalar<uint8_t>("u8", 200).scalar<int8_t>("i8", -100).scalar<uint16_t>("u16", 60000);
  file.scalar<int16_t>("i16", -30000).scalar<uint32_t>("u32", 4000000000u);
  file.scalar<int32_t>("i32", 7).scalar<uint64_t>("u64", UINT64_MAX).scalar<int64_t>("i64", -1);
  file.scalar<float>("f32", 0.5f).scalar<double>("f64", 0.25).scalar<bool>("bool", true);
  file.text("text", "h\xc3\xa9llo").text("empty", "").array<int32_t>("ints", {1, -2, 3});
  file.array<float>("floats", {1.5f, 2.5f}).array<bool>("bools", {true, false});
  file.array<uint64_t>("large", {1, UINT64_MAX}).texts("texts", {"a", "", "bcd"});
  file.array<uint32_t>("none", {});
  file.tensor("f32", {3, 2}, 0, std::string(24, '\1')).tensor("f16", {5}, 1, std::string(10, '\2'));
  file.tensor("bf16", {2, 2, 2, 2}, 30, std::string(32, '\3'));
  file.tensor("q8", {64, 2}, 8, std::string(136, '\4'));
  for (int i = 0; i < kDTypes; ++i) {
    const DTypeInfo& info = kDTypeInfo[i];
    if (info.block_values == 1) continue;
    const auto cols = static_cast<uint64_t>(2 * info.block_values);
    file.tensor(info.name, {cols, 3}, gguf_type_id(static_cast<DType>(i)),
                std::string(static_cast<size_t>(6 * info.block_bytes), static_cast<char>('A' + i)));
  }
  file.tensor("q2k", {256}, 10, std::string(84, '\5'));
  return file;
}

TEST(Gguf, ReadsEveryMetadataType) {
  for (const uint32_t version : {2u, 3u}) {
    GgufTestFile file = full_file();
    file.version = version;
    const std::string bytes = file.bytes();
    const Gguf gguf = parse(bytes).value();
    EXPECT_EQ(gguf.version(), version);
    EXPECT_EQ(gguf.alignment(), 32u);
    EXPECT_EQ(gguf.metadata().size(), 19u);
    EXPECT_EQ(gguf.get_u64("u8"), 200u);
    EXPECT_EQ(gguf.get_u64("u16"), 60000u);
    EXPECT_EQ(gguf.get_u64("u32"), 4000000000u);
    EXPECT_EQ(gguf.get_u64("i32"), 7u);
    EXPECT_EQ(gguf.get_u64("u64"), UINT64_MAX);
    EXPECT_EQ(gguf.get_f32("f32"), 0.5f);
    EXPECT_EQ(gguf.get_f32("f64"), 0.25f);
    EXPECT_TRUE(gguf.get_bool("bool"));
    EXPECT_EQ(gguf.get_string("text"), "h\xc3\xa9llo");
    EXPECT_EQ(gguf.get_string("empty"), "");
    const GgufIntArray ints = gguf.get_ints("ints");
    EXPECT_THAT((std::vector{ints[0], ints[1], ints[2]}), ElementsAre(1, -2, 3));
    EXPECT_EQ(gguf.get_ints("bools")[0], 1);
    EXPECT_EQ(gguf.get_ints("large")[1], std::numeric_limits<int64_t>::max());
    EXPECT_EQ(gguf.get_ints("none").size(), 0u);
    EXPECT_EQ(gguf.get_floats("floats")[1], 2.5f);
    EXPECT_EQ(gguf.get_floats("ints")[1], -2.0f);
    const GgufStringArray texts = gguf.get_strings("texts");
    EXPECT_EQ(texts.size(), 3u);
    EXPECT_THAT(std::vector<std::string_view>(texts.begin(), texts.end()),
                ElementsAre("a", "", "bcd"));
  }
}

TEST(Gguf, LookupsNameTheKeyAndBothTypes) {
  const std::string bytes = full_file().bytes();
  const Gguf gguf = parse(bytes).value();
  EXPECT_FALSE(gguf.find_u64("absent").has_value());
  EXPECT_FALSE(gguf.find_strings("absent").has_value());
  EXPECT_EQ(gguf.find_u64("i32"), 7u);
  expect_throws(ErrorCode::kNotFound, "metadata 'absent' is missing",
                [&] { gguf.get_string("absent"); });
  expect_throws(ErrorCode::kParse, "metadata 'i64' is i64 -1, must be a non-negative integer",
                [&] { gguf.find_u64("i64"); });
  expect_throws(ErrorCode::kParse, "'bool' is bool true", [&] { gguf.get_u64("bool"); });
  expect_throws(ErrorCode::kParse, "'u8' is u8 200, must be a float", [&] { gguf.get_f32("u8"); });
  expect_throws(ErrorCode::kParse, "must be a bool", [&] { gguf.get_bool("u8"); });
  expect_throws(ErrorCode::kParse, "must be a string", [&] { gguf.get_string("texts"); });
  expect_throws(ErrorCode::kParse, "'ints' is array of 3 i32, must be an array of strings",
                [&] { gguf.get_strings("ints"); });
  expect_throws(ErrorCode::kParse, "must be an array of integers",
                [&] { gguf.get_ints("floats"); });
  expect_throws(ErrorCode::kParse, "must be an array of numbers",
                [&] { gguf.get_floats("texts"); });
}

TEST(Gguf, FindsTensorsWithTheirShapeAndData) {
  const std::string bytes = full_file().bytes();
  const Gguf gguf = parse(bytes).value();
  EXPECT_EQ(gguf.tensors().size(), 13u);
  const GgufTensor f32 = gguf.tensor("f32");
  EXPECT_EQ(f32.dtype, DType::kF32);
  EXPECT_EQ(f32.dimensions, 2);
  EXPECT_THAT(f32.ne, ElementsAre(3, 2, 1, 1));
  EXPECT_EQ(f32.bytes, 24u);
  EXPECT_EQ(f32.data[0], std::byte{1});
  EXPECT_EQ(f32.data[23], std::byte{1});
  const GgufTensor bf16 = gguf.tensor("bf16");
  EXPECT_EQ(bf16.dtype, DType::kBF16);
  EXPECT_EQ(bf16.cols(), 2);
  EXPECT_EQ(bf16.rows(), 8);
  EXPECT_EQ(bf16.elements(), 16);
  const GgufTensor q8 = gguf.tensor("q8");
  EXPECT_EQ(q8.dtype, DType::kQ8_0);
  EXPECT_EQ(q8.bytes, 4u * 34);
  EXPECT_EQ(q8.data[135], std::byte{4});
  EXPECT_EQ((q8.data - std::as_bytes(std::span(bytes)).data()) % 32, 0);
  EXPECT_FALSE(gguf.find_tensor("absent").has_value());
  expect_throws(ErrorCode::kNotFound, "tensor 'absent' is missing", [&] { gguf.tensor("absent"); });
}

TEST(Gguf, SizesTensorsOfEveryQuantisedTypeByTheirBlocks) {
  const std::string bytes = full_file().bytes();
  const Gguf gguf = parse(bytes).value();
  for (int i = 0; i < kDTypes; ++i) {
    const DTypeInfo& info = kDTypeInfo[i];
    if (info.block_values == 1) continue;
    SCOPED_TRACE(info.name);
    const GgufTensor tensor = gguf.tensor(info.name);
    EXPECT_EQ(tensor.dtype, static_cast<DType>(i));
    EXPECT_EQ(tensor.cols(), 2 * info.block_values);
    EXPECT_EQ(tensor.rows(), 3);
    EXPECT_EQ(tensor.bytes, 3 * row_bytes(tensor.dtype, tensor.cols()));
    EXPECT_EQ(tensor.data[tensor.bytes - 1], static_cast<std::byte>('A' + i));
  }
}

TEST(Gguf, NamesTheUnsupportedTensorType) {
  const std::string bytes = full_file().bytes();
  const Gguf gguf = parse(bytes).value();
  ASSERT_NE(gguf.find_tensor_info("q2k"), nullptr);
  EXPECT_EQ(gguf.find_tensor_info("q2k")->bytes, 84u);
  const std::string expected = "unsupported tensor type Q2_K of tensor 'q2k'";
  expect_throws(ErrorCode::kUnsupported, expected, [&] { gguf.find_tensor("q2k"); });
  expect_throws(ErrorCode::kUnsupported, expected, [&] { gguf.require_supported_types(); });
}

TEST(Gguf, AlignmentMovesTheDataSection) {
  for (const uint32_t alignment : {8u, 64u, 4096u}) {
    GgufTestFile file;
    file.data_alignment = alignment;
    file.scalar<uint32_t>("general.alignment", alignment);
    file.tensor("a", {2}, 0, "12345678").tensor("b", {2}, 0, "abcdefgh");
    const std::string bytes = file.bytes();
    const Gguf gguf = parse(bytes).value();
    EXPECT_EQ(gguf.alignment(), alignment);
    const GgufTensor b = gguf.tensor("b");
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(b.data), b.bytes), "abcdefgh");
    EXPECT_EQ(gguf.find_tensor_info("b")->offset % alignment, 0u);
  }
}

TEST(Gguf, OpensAFileAndKeepsViewsOverMoves) {
  const testing_support::ScratchFolder folder;
  const std::string path = folder.write("model.gguf", full_file().bytes());
  Gguf first = Gguf::open(path).value();
  const std::string_view text = first.get_string("text");
  const GgufTensor tensor = first.tensor("f16");
  const Gguf second = std::move(first);
  EXPECT_EQ(text, "h\xc3\xa9llo");
  EXPECT_EQ(tensor.data[9], std::byte{2});
  EXPECT_EQ(second.tensor("f16").data, tensor.data);
  EXPECT_EQ(second.name(), path);
  second.prefetch();
  std::filesystem::remove(path);
  const Result<Gguf> missing = Gguf::open(path);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code(), ErrorCode::kNotFound);
  EXPECT_EQ(missing.error().where(), path);
}

TEST(Gguf, FormatsValuesOnOneLine) {
  const std::string bytes = full_file().bytes();
  const Gguf gguf = parse(bytes).value();
  EXPECT_EQ(format_gguf_value(*gguf.find("u8")), "200");
  EXPECT_EQ(format_gguf_value(*gguf.find("i8")), "-100");
  EXPECT_EQ(format_gguf_value(*gguf.find("bool")), "true");
  EXPECT_EQ(format_gguf_value(*gguf.find("text")), "'h\\xc3\\xa9llo'");
  EXPECT_EQ(format_gguf_value(*gguf.find("texts")), "[string x 3] 'a', '', 'bcd'");
  EXPECT_EQ(format_gguf_value(*gguf.find("ints"), 2), "[i32 x 3] 1, -2, ...");
  EXPECT_EQ(format_gguf_value(*gguf.find("none")), "[u32 x 0]");
}

TEST(GgufTensorType, SizesAreTheFormats) {
  EXPECT_EQ(find_gguf_tensor_type(8)->name, "Q8_0");
  EXPECT_EQ(find_gguf_tensor_type(8)->block_bytes, 34u);
  EXPECT_EQ(find_gguf_tensor_type(14)->name, "Q6_K");
  EXPECT_EQ(find_gguf_tensor_type(30)->dtype, DType::kBF16);
  EXPECT_EQ(gguf_type_id(DType::kQ6_K), 14u);
  EXPECT_EQ(find_gguf_tensor_type(4), nullptr);  // retired
  EXPECT_EQ(find_gguf_tensor_type(41), nullptr);
}

}  // namespace
}  // namespace freekv
