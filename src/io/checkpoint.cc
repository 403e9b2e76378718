#include "io/checkpoint.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/check.hpp"
#include "io/quote.hpp"

namespace freekv {
namespace {

constexpr size_t kMaxConfigBytes = size_t{16} << 20;
constexpr size_t kMaxIndexBytes = size_t{64} << 20;
constexpr std::string_view kSingle = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::string join(const std::string& folder, std::string_view name) {
  return (std::filesystem::path(folder) / name).string();
}

/// The file each tensor is in. Names must be of files in the folder itself: an index is untrusted.
std::map<std::string, std::vector<std::string>> tensors_by_file(const JsonFile& index) {
  const JsonObject root = index.root();
  const auto map = root.find_object("weight_map");
  if (!map) throw Error(ErrorCode::kParse, "weight_map is missing", root.source());
  std::map<std::string, std::vector<std::string>> files;
  for (std::string& tensor : map->keys()) {
    const std::string file = map->find_string(tensor).value_or("");
    if (file.empty() || file.find('/') != std::string::npos || !file.ends_with(".safetensors")) {
      throw Error(ErrorCode::kParse,
                  fmt::format("weight_map places {} in {}, must be a .safetensors file of the "
                              "folder",
                              freekv::quoted(tensor), freekv::quoted(file)),
                  root.source());
    }
    files[file].push_back(std::move(tensor));
  }
  if (files.empty()) throw Error(ErrorCode::kParse, "weight_map is empty", root.source());
  return files;
}

}  // namespace

bool has_tokenizer(const Checkpoint& folder) {
  return exists(join(folder.folder(), "tokenizer.json"));
}

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

Result<Checkpoint> Checkpoint::open(const std::string& folder) {
  try {
    const std::string config = join(folder, "config.json");
    if (!exists(config)) {
      throw Error(ErrorCode::kNotFound,
                  "is a directory without config.json, expected a checkpoint folder or a GGUF file",
                  folder);
    }
    Checkpoint checkpoint(folder, JsonFile::open(config, kMaxConfigBytes).value());
    checkpoint.open_files();
    return checkpoint;
  } catch (const Error& error) {
    return error;
  }
}

void Checkpoint::open_files() {
  const std::string index_path = join(folder_, kIndex);
  if (!exists(index_path)) {
    const std::string single = join(folder_, kSingle);
    if (!exists(single)) {
      throw Error(ErrorCode::kNotFound,
                  fmt::format("has neither {} nor {} (weights in other formats are not read)",
                              kSingle, kIndex),
                  folder_);
    }
    files_.push_back(Safetensors::open(single).value());
    index_tensors();
    return;
  }
  const JsonFile index = JsonFile::open(index_path, kMaxIndexBytes).value();
  for (const auto& [name, tensors] : tensors_by_file(index)) {
    const Safetensors& file = files_.emplace_back(Safetensors::open(join(folder_, name)).value());
    for (const std::string& tensor : tensors) {
      if (file.find(tensor) != nullptr) continue;
      throw Error(
          ErrorCode::kNotFound,
          fmt::format("tensor {} is missing, {} places it here", freekv::quoted(tensor), kIndex),
          file.name());
    }
  }
  index_tensors();
}

void Checkpoint::index_tensors() {
  for (const Safetensors& file : files_) {
    for (const SafetensorsInfo& info : file.tensors()) tensors_.push_back({&file, &info});
  }
  std::sort(tensors_.begin(), tensors_.end(),
            [](const CheckpointTensor& a, const CheckpointTensor& b) {
              return a.info->name < b.info->name;
            });
  for (size_t i = 1; i < tensors_.size(); ++i) {
    if (tensors_[i].info->name != tensors_[i - 1].info->name) continue;
    throw Error(ErrorCode::kParse,
                fmt::format("tensor {} is in {} too", freekv::quoted(tensors_[i].info->name),
                            tensors_[i - 1].file->name()),
                tensors_[i].file->name());
  }
}

std::optional<CheckpointTensor> Checkpoint::find(std::string_view tensor) const {
  const auto it = std::lower_bound(
      tensors_.begin(), tensors_.end(), tensor,
      [](const CheckpointTensor& entry, std::string_view name) { return entry.info->name < name; });
  if (it == tensors_.end() || it->info->name != tensor) return std::nullopt;
  return *it;
}

}  // namespace freekv
