// A Hugging Face checkpoint folder: config.json and the tensors of one safetensors file or of the
// shards that model.safetensors.index.json lists. (What stands in it for text, the tokenizer
// reads.)
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "freekv/error.hpp"
#include "io/json.hpp"
#include "io/safetensors.hpp"

namespace freekv {

/// A tensor and the file it is in.
struct CheckpointTensor {
  const Safetensors* file = nullptr;
  const SafetensorsInfo* info = nullptr;

  const std::byte* data() const { return file->data(*info); }
};

/// An open folder; what it hands out lives as long as it does. Lookups are const and thread-safe.
class Checkpoint {
 public:
  /// Maps every shard and reads the headers. Errors name the file: a missing one, a malformed one,
  /// or a shard without a tensor that the index places there.
  static Result<Checkpoint> open(const std::string& folder);

  const std::string& folder() const { return folder_; }
  JsonObject config() const { return config_.root(); }

  std::span<const Safetensors> files() const { return files_; }
  /// Those of all files, names ascending.
  std::span<const CheckpointTensor> tensors() const { return tensors_; }
  std::optional<CheckpointTensor> find(std::string_view tensor) const;

 private:
  Checkpoint(std::string folder, JsonFile config)
      : folder_(std::move(folder)), config_(std::move(config)) {}

  void open_files();
  void index_tensors();

  std::string folder_;
  JsonFile config_;
  std::vector<Safetensors> files_;
  std::vector<CheckpointTensor> tensors_;
};

/// Whether the folder has a tokenizer.json.
bool has_tokenizer(const Checkpoint& folder);

/// Whether MODEL names a checkpoint folder rather than a file.
bool is_folder(const std::string& path);

}  // namespace freekv
