// Writes the seed corpus of every fuzz target under a folder. Findings are added by hand beside the
// seeds, under names of their own.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf_test_file.hpp"
#include "io/safetensors_test_file.hpp"
#include "tokenizer/tokenizer_test_json.hpp"
#include "tokenizer/tokenizer_test_vocab.hpp"

namespace freekv {
namespace {

void write(const std::filesystem::path& path, std::string_view bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

void write_gguf(const std::filesystem::path& folder) {
  GgufTestFile values;
  values.scalar<uint8_t>("u8", 1).scalar<int8_t>("i8", -1).scalar<uint16_t>("u16", 2);
  values.scalar<int16_t>("i16", -2).scalar<uint32_t>("u32", 3).scalar<int32_t>("i32", -3);
  values.scalar<uint64_t>("u64", 4).scalar<int64_t>("i64", -4).scalar<float>("f32", 0.5f);
  values.scalar<double>("f64", 0.25).scalar<bool>("bool", true).text("text", "llama");
  write(folder / "scalars", values.bytes());
  GgufTestFile arrays;
  arrays.array<uint8_t>("u8s", {1, 2}).array<int16_t>("i16s", {-1}).array<bool>("bools", {true});
  arrays.array<float>("floats", {1, 2}).array<uint64_t>("u64s", {}).texts("texts", {"a", "", "b"});
  write(folder / "arrays", arrays.bytes());
  GgufTestFile tensors;
  tensors.data_alignment = 8;
  tensors.scalar<uint32_t>("general.alignment", 8);
  tensors.tensor("f32", {3, 2}, 0, std::string(24, '\1'))
      .tensor("f16", {5}, 1, std::string(10, '\2'));
  tensors.tensor("bf16", {1, 2, 1, 2}, 30, std::string(8, '\3'));
  tensors.tensor("q8_0", {32, 2}, 8, std::string(68, '\4'));
  tensors.tensor("q4_k", {256}, 12, std::string(144, '\5'));
  write(folder / "tensors", tensors.bytes());
  tensors.version = 2;
  write(folder / "version2", tensors.bytes());
  write(folder / "empty_v3", GgufTestFile().bytes());
  GgufTestFile large;
  large.texts("claims", {}).claimed_entries = uint64_t{1} << 40;
  write(folder / "claims_entries", large.bytes());
}

void write_safetensors(const std::filesystem::path& folder) {
  const std::string first = safetensors_entry("a", "F32", "2,1", 0, 8);
  const std::string data(16, '\3'), half(8, '\3');
  write(folder / "one", safetensors_bytes(safetensors_header({first}), half));
  const std::string types = safetensors_header(
      {R"("__metadata__":{"format":"pt"})", first, safetensors_entry("b", "BF16", "1,1,2", 8, 12),
       safetensors_entry("c", "F4", "4", 12, 14), safetensors_entry("d", "I16", "", 14, 16),
       safetensors_entry("e", "F64", "0", 16, 16)});
  write(folder / "types", safetensors_bytes(types, data));
  write(folder / "empty", safetensors_bytes("{}", ""));
  write(folder / "overlap",
        safetensors_bytes(safetensors_header({first, safetensors_entry("b", "F16", "6", 4, 16)}),
                          data));
  write(folder / "claims_header",
        safetensors_bytes(safetensors_header({first}), data, uint64_t{1} << 40));
  const std::string overflow = safetensors_entry("a", "F32", "4294967296,4294967296,2", 0, 8);
  write(folder / "shape_overflow", safetensors_bytes(safetensors_header({overflow}), half));
}

void write_tokenizer(const std::filesystem::path& folder) {
  const std::vector<std::pair<const char*, std::string>> texts = {
      {"prose", "Hello hello, y'all! We'LL pay $1234.50\r\n\r\n  \t in 2 days"},
      {"unicode",
       "n\xc3\xa4"
       "e \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\xa6\x99 e\xcc\x81\xe2\x80\x83\xc2\x85 \xd9\xa3"},
      {"invalid",
       "\xff\xfe"
       "ab\xc3(\xe2\x82\xed\xa0\x80\xf5\xf0\x9f"},
      {"special", "<|im_start|>user\nhi<tool>s<tool><|im_end|><|im_e<|endoftext|>"},
      {"runs", std::string(60, 'a') + std::string(40, ' ') + std::string(40, '\n') + "\xff\xff"}};
  for (const auto& [name, text] : texts) {
    for (int which = 0; which < 3; ++which) {
      write(folder / (std::string(name) + std::to_string(which)), std::to_string(which) + text);
    }
  }
  for (const char* name : {"gpt-2", "llama-bpe", "qwen2"}) {
    write(folder / name, std::to_string(3) + SmallVocabulary(name).file().bytes());
  }
  write(folder / "llama-spm", std::to_string(3) + small_sentencepiece_file().bytes());
}

void write_tokenizer_json(const std::filesystem::path& folder) {
  for (const char* family : {"gpt-2", "llama-bpe", "qwen2", "tekken"}) {
    write(folder / family, small_byte_level_json(family).dump());
  }
  nlohmann::json document = small_sentencepiece_json();
  write(folder / "llama-2", document.dump());
  document["normalizer"] = nullptr;
  document["pre_tokenizer"] = {{"type", "Metaspace"},
                               {"replacement", std::string(kSpaceMark)},
                               {"prepend_scheme", "first"},
                               {"split", false}};
  for (const char* flag : {"lstrip", "rstrip", "single_word", "normalized"}) {
    document["added_tokens"][0][flag] = true;
  }
  document["model"]["byte_fallback"] = false;
  write(folder / "metaspace", document.dump());
  write(folder / "empty", "{}");
}

}  // namespace
}  // namespace freekv

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  freekv::write_gguf(std::filesystem::path(argv[1]) / "gguf");
  freekv::write_safetensors(std::filesystem::path(argv[1]) / "safetensors");
  freekv::write_tokenizer(std::filesystem::path(argv[1]) / "tokenizer");
  freekv::write_tokenizer_json(std::filesystem::path(argv[1]) / "tokenizer_json");
  return 0;
}
