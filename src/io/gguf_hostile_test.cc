// Files that lie, are cut short or are damaged: one clear line each, and never a crash.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "io/gguf.hpp"
#include "io/gguf_test_file.hpp"

namespace freekv {
namespace {

using testing::HasSubstr;

Result<Gguf> parse(const std::string& bytes) {
  return Gguf::parse(std::as_bytes(std::span(bytes)), "test.gguf");
}

void expect_refused(const std::string& bytes, ErrorCode code, const std::string& part) {
  const Result<Gguf> gguf = parse(bytes);
  ASSERT_FALSE(gguf.ok()) << "accepted, expected: " << part;
  EXPECT_EQ(gguf.error().code(), code) << gguf.error().what();
  EXPECT_EQ(gguf.error().where(), "test.gguf");
  EXPECT_THAT(gguf.error().message(), HasSubstr(part));
  EXPECT_THAT(gguf.error().message(), testing::Not(HasSubstr("\n")));
}

void expect_parse_error(const GgufTestFile& file, const std::string& part) {
  expect_refused(file.bytes(), ErrorCode::kParse, part);
}

// Touches all that a file offers; sanitizers see any read outside it.
uint64_t read_everything(const Gguf& gguf) {
  uint64_t sum = 0;
  for (const GgufEntry& entry : gguf.metadata()) {
    sum += format_gguf_value(entry.value, SIZE_MAX).size();
    EXPECT_EQ(gguf.find(entry.key), &entry.value);
  }
  for (const GgufTensorInfo& info : gguf.tensors()) {
    if (!info.type->dtype) continue;
    const GgufTensor tensor = gguf.tensor(info.name);
    for (size_t i = 0; i < tensor.bytes; ++i) sum += std::to_integer<uint64_t>(tensor.data[i]);
  }
  return sum;
}

GgufTestFile small_file() {
  GgufTestFile file;
  file.text("general.architecture", "llama").scalar<uint32_t>("general.alignment", 32);
  file.scalar<bool>("flag", true).array<float>("floats", {1, 2, 3}).texts("texts", {"a", "bc"});
  file.tensor("w", {32, 2}, 8, std::string(68, '\1')).tensor("v", {4}, 0, std::string(16, '\2'));
  return file;
}

TEST(GgufHostile, HeaderFields) {
  GgufTestFile file = small_file();
  file.magic = "PK\3\4";
  expect_parse_error(file, "magic is 'PK\\x03\\x04', must be 'GGUF'");
  file.magic = "FUGG";
  expect_refused(file.bytes(), ErrorCode::kUnsupported, "big-endian");
  file = small_file();
  for (const uint32_t version : {0u, 1u, 4u, 0xffffffffu}) {
    file.version = version;
    expect_refused(file.bytes(), ErrorCode::kUnsupported,
                   "GGUF version is " + std::to_string(version) + ", supported are 2 and 3");
  }
  file.version = 3u << 24;
  expect_refused(file.bytes(), ErrorCode::kUnsupported, "big-endian");
}

TEST(GgufHostile, CountsBeyondTheFile) {
  for (const uint64_t claim : {uint64_t{1} << 20, uint64_t{1} << 40, UINT64_MAX}) {
    GgufTestFile file = small_file();
    file.claimed_tensors = claim;
    expect_parse_error(file, "tensor count is " + std::to_string(claim));
    file = small_file();
    file.claimed_entries = claim;
    expect_parse_error(file, "metadata count is " + std::to_string(claim));
  }
  // Counts that the file could hold, but does not.
  GgufTestFile file = small_file();
  file.claimed_entries = 6;
  EXPECT_FALSE(parse(file.bytes()).ok());
  file = small_file();
  file.claimed_tensors = 4;
  EXPECT_FALSE(parse(file.bytes()).ok());
}

TEST(GgufHostile, MetadataFields) {
  using F = GgufTestFile;
  const auto lone = [](std::string_view key, uint32_t type, const std::string& payload) {
    return GgufTestFile().raw(key, type, payload + std::string(64, '\0'));
  };
  expect_parse_error(lone("", 4, ""), "key of metadata entry 0 is empty");
  expect_parse_error(lone("k", 13, ""), "value type of metadata entry 0 'k' is 13, must be below");
  expect_parse_error(lone("k\n\x1b[2J", 99, ""), "'k\\x0a\\x1b[2J' is 99");
  expect_parse_error(lone("k", 7, "\2"), "value of metadata entry 0 'k' is 2, a bool must be");
  expect_parse_error(lone("k", 8, F::number(UINT64_MAX)), "takes 18446744073709551615 bytes");
  expect_parse_error(lone("k", 8, F::number<uint64_t>(65)), "takes 65 bytes at offset 45, 64 are");
  expect_parse_error(lone("k", 9, F::number(13u)), "array element type of metadata entry 0 'k'");
  expect_refused(lone("k", 9, F::number(9u)).bytes(), ErrorCode::kUnsupported, "nested arrays");
  for (const uint64_t count : {uint64_t{17}, uint64_t{1} << 61, uint64_t{1} << 62, UINT64_MAX}) {
    expect_parse_error(lone("k", 9, F::number(4u) + F::number(count)),
                       "value of metadata entry 0 'k'");
    expect_parse_error(lone("k", 9, F::number(8u) + F::number(count)),
                       "strings, the 64 bytes left");
  }
  expect_parse_error(lone("k", 9, F::number(8u) + F::number(uint64_t{8}) + F::number(uint64_t{99})),
                     "takes 99 bytes");
  expect_parse_error(lone("k", 9, F::number(7u) + F::number(uint64_t{1}) + "\5"),
                     "is 5, a bool must be 0 or 1");
  GgufTestFile twice;
  twice.scalar<uint8_t>("a", 1).scalar<uint8_t>("b", 1).scalar<uint8_t>("a", 1);
  expect_parse_error(twice, "metadata key 'a' occurs twice, as number 0 and 2");
}

TEST(GgufHostile, Alignment) {
  for (const uint32_t alignment : {0u, 1u, 4u, 24u, 33u, 1u << 21, 0x80000000u, 0xffffffffu}) {
    GgufTestFile file;
    file.scalar<uint32_t>("general.alignment", alignment);
    expect_parse_error(file, "'general.alignment' is " + std::to_string(alignment) + ", must be a");
  }
  GgufTestFile file;
  file.text("general.alignment", "32");
  expect_parse_error(file, "'general.alignment' is string, must be u32");
}

TEST(GgufHostile, TensorFields) {
  const auto lone = [](const std::vector<uint64_t>& ne, uint32_t type, uint64_t offset) {
    GgufTestFile file;
    file.raw_tensor("w", ne, type, offset).tensor("end", {64}, 0, std::string(256, '\0'));
    return file;
  };
  ASSERT_TRUE(parse(lone({4}, 0, 0).bytes()).ok());
  ASSERT_TRUE(parse(lone({8}, 0, 224).bytes()).ok());
  expect_parse_error(lone({}, 0, 0), "number of dimensions of tensor 0 'w' is 0, must be 1 to 4");
  expect_parse_error(lone({1, 1, 1, 1, 1}, 0, 0), "is 5, must be 1 to 4");
  expect_parse_error(lone({4, 0}, 0, 0), "ne[1] is 0");
  expect_parse_error(lone({UINT64_MAX}, 0, 0), "ne[0] is 18446744073709551615");
  expect_parse_error(lone({uint64_t{1} << 62, 4}, 0, 0), "ne[1] is 4");
  expect_parse_error(lone({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0), "ne[1] is 4294967296");
  expect_parse_error(lone({uint64_t{1} << 62}, 0, 0), "the data section has 256 bytes");
  expect_refused(lone({4}, 4, 0).bytes(), ErrorCode::kUnsupported, "tensor 'w' has unknown type 4");
  expect_refused(lone({4}, UINT32_MAX, 0).bytes(), ErrorCode::kUnsupported, "unknown type 42949");
  expect_parse_error(lone({33}, 8, 0), "rows of 33 values, Q8_0 needs a multiple of 32");
  expect_parse_error(lone({128, 3}, 12, 0), "rows of 128 values, Q4_K needs a multiple of 256");
  for (int i = 0; i < kDTypes; ++i) {
    const DTypeInfo& info = kDTypeInfo[i];
    const auto values = static_cast<uint64_t>(info.block_values);
    const uint32_t type = gguf_type_id(static_cast<DType>(i));
    if (values > 1) {
      expect_parse_error(lone({values + values / 2, 2}, type, 0),
                         fmt::format("rows of {} values, {} needs a multiple of {}",
                                     values + values / 2, info.name, values));
    }
    // As many blocks as fit the 256 bytes of data, and one more.
    const auto fitting = static_cast<uint64_t>(256 / info.block_bytes);
    EXPECT_TRUE(parse(lone({values, fitting}, type, 0).bytes()).ok()) << info.name;
    expect_parse_error(lone({values, fitting + 1}, type, 0),
                       fmt::format("takes {} blocks of {} bytes at offset 0, the data section has",
                                   fitting + 1, info.block_bytes));
  }
  expect_parse_error(lone({4}, 0, 8), "has offset 8, must be a multiple of alignment 32");
  expect_parse_error(lone({9}, 0, 224), "9 blocks of 4 bytes at offset 224, the data section has");
  expect_parse_error(lone({4}, 0, 256), "the data section has 256 bytes");
  expect_parse_error(lone({8}, 0, UINT64_MAX - 31), "the data section has 256 bytes");
  expect_parse_error(lone({4}, 0, uint64_t{1} << 63), "the data section has 256 bytes");
  GgufTestFile twice;
  twice.tensor("w", {4}, 0, std::string(16, '\0')).tensor("w", {4}, 0, std::string(16, '\0'));
  expect_parse_error(twice, "tensor name 'w' occurs twice");
  GgufTestFile nameless;
  nameless.tensor("", {4}, 0, std::string(16, '\0'));
  expect_parse_error(nameless, "name of tensor 0 is empty");
}

TEST(GgufHostile, EveryTruncationIsRefused) {
  const std::string whole = small_file().bytes();
  ASSERT_TRUE(parse(whole).ok());
  for (size_t length = 0; length < whole.size(); ++length) {
    // A copy of its own, so that a read past the end leaves the allocation.
    const std::string cut = whole.substr(0, length);
    const Result<Gguf> gguf = parse(cut);
    ASSERT_FALSE(gguf.ok()) << length;
    EXPECT_THAT(gguf.error().message(), testing::Not(HasSubstr("\n")));
  }
}

TEST(GgufHostile, EveryByteReplacedNeverCrashes) {
  const std::string whole = small_file().bytes();
  uint64_t sum = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const int value : {0x00, 0x01, 0x09, 0x7f, 0x80, 0xff}) {
      std::string damaged = whole;
      damaged[i] = static_cast<char>(value);
      Result<Gguf> gguf = parse(damaged);
      if (gguf.ok()) sum += read_everything(gguf.value());
    }
  }
  EXPECT_GT(sum, 0u);
}

TEST(GgufHostile, RandomDamageNeverCrashes) {
  const std::string whole = small_file().bytes();
  std::mt19937 random(1);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = whole;
    for (auto flips = 1 + random() % 8; flips > 0; --flips) {
      damaged[random() % damaged.size()] ^= static_cast<char>(1u << random() % 8);
    }
    if (random() % 4 == 0) damaged.resize(random() % damaged.size());
    Result<Gguf> gguf = parse(damaged);
    if (!gguf.ok()) continue;
    read_everything(gguf.value());
    ++accepted;
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 20000);
}

}  // namespace
}  // namespace freekv
