// Conversion: what arrives is what was meant, and a file appears whole or not at all.
#include "model/convert.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/quantize.hpp"
#include "freekv/error.hpp"
#include "io/gguf.hpp"
#include "support/scratch_folder.hpp"
#include "tiny_model.hpp"

namespace freekv {
namespace {

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class Convert : public testing::Test {
 protected:
  std::string path(const char* name) const { return folder_.file(name); }
  size_t files() const {
    return static_cast<size_t>(
        std::distance(std::filesystem::directory_iterator(folder_.path()), {}));
  }
  void convert(const std::string& in, const std::string& out, DType type) {
    convert_model(pool_, in, out, type, nullptr);
  }

  testing_support::ScratchFolder folder_;
  ThreadPool pool_{2};
  TemporaryModel model_;
};

TEST_F(Convert, KeepsMetadataAndVectorsAndQuantizesMatrices) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kQ8_0, DType::kQ4_0}) {
    SCOPED_TRACE(dtype_name(type));
    convert(model_.path(), path("out.gguf"), type);
    const Gguf from = Gguf::open(model_.path()).value();
    const Gguf to = Gguf::open(path("out.gguf")).value();
    for (const GgufEntry& entry : from.metadata()) {
      ASSERT_NE(to.find(entry.key), nullptr) << entry.key;
      EXPECT_EQ(format_gguf_value(*to.find(entry.key), SIZE_MAX),
                format_gguf_value(entry.value, SIZE_MAX));
    }
    EXPECT_TRUE(to.has("general.file_type"));
    ASSERT_EQ(to.tensors().size(), from.tensors().size());
    for (const GgufTensorInfo& info : from.tensors()) {
      const GgufTensor a = from.tensor(info.name), b = to.tensor(info.name);
      EXPECT_EQ(b.ne, a.ne);
      ASSERT_EQ(b.dtype, a.dimensions == 1 ? DType::kF32 : type) << info.name;
      std::vector<float> row(static_cast<size_t>(a.cols()));
      std::vector<std::byte> want(row_bytes(b.dtype, a.cols()));
      for (int64_t r = 0; r < a.rows(); ++r) {
        load_row(a.dtype, a.data + static_cast<size_t>(r) * row_bytes(a.dtype, a.cols()), row);
        quantize_row(b.dtype, row, want.data());
        ASSERT_TRUE(
            std::equal(want.begin(), want.end(), b.data + static_cast<size_t>(r) * want.size()));
      }
    }
  }
}

TEST_F(Convert, ToItsOwnTypeAndBackIsTheSameFile) {
  convert(model_.path(), path("one.gguf"), DType::kF32);
  convert(path("one.gguf"), path("two.gguf"), DType::kF32);
  EXPECT_EQ(read(path("one.gguf")), read(path("two.gguf")));
  convert(path("two.gguf"), path("two.gguf"), DType::kF32);  // onto itself
  EXPECT_EQ(read(path("one.gguf")), read(path("two.gguf")));
}

TEST_F(Convert, RowsThatAreNotWholeBlocksBecomeF16) {
  const TemporaryModel odd(tiny_model_records({.ffn = 40}));
  convert(odd.path(), path("out.gguf"), DType::kQ8_0);
  const Gguf to = Gguf::open(path("out.gguf")).value();
  EXPECT_EQ(to.tensor("blk.0.ffn_down.weight").dtype, DType::kF16);
  EXPECT_EQ(to.tensor("blk.0.ffn_up.weight").dtype, DType::kQ8_0);
}

TEST_F(Convert, StoppingAndFailingLeaveWhatWasThere) {
  folder_.write("out.gguf", "before");
  int calls = 0;
  try {
    convert_model(pool_, model_.path(), path("out.gguf"), DType::kF16,
                  [&](size_t done, size_t total) {
                    EXPECT_LE(done, total);
                    return ++calls < 3;
                  });
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kCancelled);
  }
  EXPECT_EQ(read(path("out.gguf")), "before");
  EXPECT_EQ(files(), 1u);

  EXPECT_THROW(convert(path("none.gguf"), path("out.gguf"), DType::kF16), Error);
  EXPECT_THROW(convert(path("out.gguf"), path("new.gguf"), DType::kF16), Error);
  EXPECT_THROW(convert(model_.path(), path("no/such/folder.gguf"), DType::kF16), Error);
  EXPECT_THROW(convert(model_.path(), folder_.path(), DType::kF16), Error);
  EXPECT_THROW(convert(model_.path(), path("out.gguf"), DType::kQ4_K), Error);
  EXPECT_EQ(read(path("out.gguf")), "before");
  EXPECT_EQ(files(), 1u);
}

}  // namespace
}  // namespace freekv
