#include "device/host_memory.hpp"

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <optional>
#include <string>

namespace freekv {
namespace {

/// The number that a file holds; nullopt for none, or for the word "max".
std::optional<size_t> number_in(const std::string& path) {
  std::ifstream file(path);
  size_t value = 0;
  if (!(file >> value)) return std::nullopt;
  return value;
}

size_t system_estimate() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  size_t kibibytes = 0;
  while (file >> key >> kibibytes) {
    if (key == "MemAvailable:") return kibibytes * 1024;
    std::getline(file, unit);
  }
  return SIZE_MAX;
}

/// Bytes of files that the kernel keeps for this control group and gives back when asked.
size_t reclaimable(const std::string& statistics) {
  std::ifstream file(statistics);
  std::string key;
  size_t value = 0, sum = 0;
  while (file >> key >> value) {
    if (key == "active_file" || key == "inactive_file") sum += value;
  }
  return sum;
}

/// Of control groups of version 2, then 1, as a container sees its own.
size_t container_rest() {
  struct Files {
    const char* limit;
    const char* used;
    const char* statistics;
  };
  constexpr Files kFiles[] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
       "/sys/fs/cgroup/memory/memory.stat"}};
  for (const Files& files : kFiles) {
    const auto limit = number_in(files.limit), used = number_in(files.used);
    // A limit of nearly 2^63 stands for none.
    if (!limit || !used || *limit >= size_t{1} << 60) continue;
    const size_t kept = *used - std::min(*used, reclaimable(files.statistics));
    return *limit - std::min(*limit, kept);
  }
  return SIZE_MAX;
}

}  // namespace

size_t available_host_memory() { return std::min(system_estimate(), container_rest()); }

}  // namespace freekv
