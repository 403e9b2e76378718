#include "model/tensor_source.hpp"

#include "core/check.hpp"
#include "io/checkpoint.hpp"
#include "io/gguf.hpp"
#include "io/quote.hpp"

namespace freekv {
namespace {

class GgufSource final : public TensorSource {
 public:
  explicit GgufSource(const Gguf& file) : file_(file) {}

  const std::string& path() const override { return file_.name(); }
  const TensorNames& names() const override { return kGgufNames; }

  std::optional<SourceTensor> find(const std::string& name) const override {
    const auto tensor = file_.find_tensor(name);
    if (!tensor) return std::nullopt;
    return SourceTensor{tensor->dtype, tensor->rows(), tensor->cols(),
                        tensor->data,  tensor->bytes,  &file_.name()};
  }

  std::vector<std::string_view> all_names() const override {
    std::vector<std::string_view> names;
    for (const GgufTensorInfo& info : file_.tensors()) names.push_back(info.name);
    return names;
  }

 private:
  const Gguf& file_;
};

class CheckpointSource final : public TensorSource {
 public:
  explicit CheckpointSource(const Checkpoint& folder) : folder_(folder) {}

  const std::string& path() const override { return folder_.folder(); }
  const TensorNames& names() const override { return kCheckpointNames; }

  std::optional<SourceTensor> find(const std::string& name) const override {
    const auto found = folder_.find(name);
    if (!found) return std::nullopt;
    const SafetensorsInfo& info = *found->info;
    if (!info.type->dtype) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("dtype of tensor {} is {}, supported are F32, F16 and BF16",
                              freekv::quoted(name), info.type->name),
                  found->file->name());
    }
    if (info.dimensions < 1 || info.dimensions > 2) {
      throw Error(ErrorCode::kParse,
                  fmt::format("tensor {} has {} dimensions, must have 1 or 2", freekv::quoted(name),
                              info.dimensions),
                  found->file->name());
    }
    const bool vector = info.dimensions == 1;
    return SourceTensor{
        *info.type->dtype, vector ? 1 : info.shape[0],      info.shape[vector ? 0 : 1],
        found->data(),     static_cast<size_t>(info.bytes), &found->file->name()};
  }

  std::vector<std::string_view> all_names() const override {
    std::vector<std::string_view> names;
    for (const CheckpointTensor& tensor : folder_.tensors()) names.push_back(tensor.info->name);
    return names;
  }

 private:
  const Checkpoint& folder_;
};

}  // namespace

std::unique_ptr<TensorSource> tensor_source(const Gguf& file) {
  return std::make_unique<GgufSource>(file);
}
std::unique_ptr<TensorSource> tensor_source(const Checkpoint& folder) {
  return std::make_unique<CheckpointSource>(folder);
}

}  // namespace freekv
