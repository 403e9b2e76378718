// Models whose records do not fit together: an Error that names file and field, never a crash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "freekv/error.hpp"
#include "model/model.hpp"
#include "support/scratch_folder.hpp"
#include "tiny_model.hpp"

namespace freekv {
namespace {

using testing::HasSubstr;

/// What the Error of loading says; "loaded" when there is none.
std::string error_of(const GgufTestFile& records) {
  const TemporaryModel file(records);
  try {
    Model model(file.path());
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(file.path()));
    return error.what();
  }
  return "loaded";
}

TEST(ModelFile, TheTinyModelLoads) { EXPECT_EQ(error_of(tiny_model_records()), "loaded"); }

TEST(ModelFile, OtherArchitecturesAreNamed) {
  GgufTestFile file;
  file.text("general.architecture", "mamba");
  EXPECT_THAT(error_of(file), HasSubstr("mamba"));
}

TEST(ModelFile, MissingKeysAreNamed) {
  GgufTestFile file;
  file.text("general.architecture", "llama");
  EXPECT_THAT(error_of(file), HasSubstr("llama.block_count"));
}

TEST(ModelFile, ShapesThatDisagreeNameTensorAndBothSizes) {
  // The metadata says one thing, the tensors (of another shape) another.
  GgufTestFile wide = tiny_model_records({.ffn = 64});
  const std::string bytes = wide.bytes();
  std::string changed = bytes;
  const std::string key = GgufTestFile::string("llama.feed_forward_length");
  const size_t at = changed.find(key) + key.size() + 4;
  changed.replace(at, 4, GgufTestFile::number(uint32_t{96}));
  const testing_support::ScratchFolder folder;
  try {
    Model model(folder.write("wide.gguf", changed));
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                testing::AllOf(HasSubstr("ffn_gate"), HasSubstr("64 x 32"), HasSubstr("96 x 32")));
  }
}

TEST(ModelFile, SizesOutOfRangeAreRefused) {
  const testing_support::ScratchFolder folder;
  for (const char* key :
       {"llama.block_count", "llama.embedding_length", "llama.attention.head_count",
        "llama.attention.head_count_kv", "llama.attention.key_length", "llama.context_length"}) {
    for (const uint32_t value : {0u, 7u, 0xffffffffu}) {
      std::string bytes = tiny_model_records().bytes();
      const std::string record = GgufTestFile::string(key);
      const size_t at = bytes.find(record) + record.size() + 4;
      if (bytes.substr(at, 4) == GgufTestFile::number(value)) continue;
      bytes.replace(at, 4, GgufTestFile::number(value));
      // A shorter context is a fine model; everything else contradicts the tensors.
      if (std::string(key) == "llama.context_length" && value == 7) continue;
      const std::string path = folder.write("range.gguf", bytes);
      EXPECT_THROW(Model model(path), Error) << key << " = " << value;
    }
  }
}

}  // namespace
}  // namespace freekv
