#include "io/safetensors.hpp"

#include <algorithm>
#include <utility>

#include "io/safetensors_header.hpp"

namespace freekv {

Result<Safetensors> Safetensors::open(const std::string& path) {
  Result<MappedFile> file = MappedFile::open(path);
  if (!file.ok()) return file.error();
  Result<Safetensors> parsed = parse(file.value().bytes(), path);
  if (parsed.ok()) parsed.value().file_ = std::move(file).value();
  return parsed;
}

Result<Safetensors> Safetensors::parse(std::span<const std::byte> bytes, std::string name) {
  try {
    Safetensors file;
    file.tensors_ = parse_safetensors(bytes, name);
    file.bytes_ = bytes;
    file.name_ = std::move(name);
    return file;
  } catch (const Error& error) {
    return error;
  }
}

const SafetensorsInfo* Safetensors::find(std::string_view tensor) const {
  const auto it = std::lower_bound(
      tensors_.begin(), tensors_.end(), tensor,
      [](const SafetensorsInfo& info, std::string_view name) { return info.name < name; });
  return it != tensors_.end() && it->name == tensor ? &*it : nullptr;
}

}  // namespace freekv
