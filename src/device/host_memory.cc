#include "device/host_memory.hpp"

#include <sched.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>

#include "core/check.hpp"

namespace freekv {
namespace {

std::optional<size_t> parse_bytes(std::string_view text) {
  size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

// The first word of a file, if it is a number; cgroup v2's "max" is none.
std::optional<size_t> read_bytes(const std::string& path) {
  std::string word;
  std::ifstream(path) >> word;
  return parse_bytes(word);
}

// The number behind `name` in a file of names and numbers.
std::optional<size_t> read_field(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string first, second;
    words >> first >> second;
    if (first == name) return parse_bytes(second);
  }
  return std::nullopt;
}

struct CgroupFiles {
  const char* mount;
  const char* limit;
  const char* anonymous;  // of memory.stat
};
constexpr CgroupFiles kVersion2{"/sys/fs/cgroup", "memory.max", "anon"};
constexpr CgroupFiles kVersion1{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "total_rss"};

// The group at `path` and those around it. Inside a container the path may be the host's, of which
// only the root is mounted here; groups that are not there have no files to read.
void take_limits(const std::string& root, const CgroupFiles& files, std::string path,
                 HostMemory& memory) {
  while (true) {
    const std::string group = root + files.mount + (path == "/" ? "" : path) + "/";
    if (const auto limit = read_bytes(group + files.limit)) {
      HostMemory here = memory;
      here.container_limit = *limit;
      here.container_used = read_field(group + "memory.stat", files.anonymous).value_or(0);
      if (here.container_left() < memory.container_left()) memory = here;
    }
    const size_t slash = path.rfind('/');
    if (path.size() <= 1 || slash == std::string::npos) return;
    path.resize(slash == 0 ? 1 : slash);
  }
}

bool lists_memory(std::string_view controllers) {
  for (size_t begin = 0; begin <= controllers.size();) {
    const size_t end = std::min(controllers.find(',', begin), controllers.size());
    if (controllers.substr(begin, end - begin) == "memory") return true;
    begin = end + 1;
  }
  return false;
}

}  // namespace

HostMemory host_memory(const std::string& root) {
  HostMemory memory;
  if (const auto kib = read_field(root + "/proc/meminfo", "MemAvailable:")) {
    memory.available = *kib * 1024;
  }
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {  // "4:memory:/path" (v1) or "0::/path" (v2)
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string_view controllers =
        std::string_view(line).substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (lists_memory(controllers)) {
      take_limits(root, kVersion1, path, memory);
    } else if (controllers.empty()) {
      take_limits(root, kVersion2, path, memory);
    }
  }
  // Version 1 writes a number near 2^63 for no limit.
  if (memory.container_limit >= size_t{1} << 62) memory.container_limit = SIZE_MAX;
  return memory;
}

void check_host_memory(size_t bytes, const HostMemory& memory) {
  if (bytes <= memory.left()) return;
  if (memory.container_left() < memory.available) {
    fail(ErrorCode::kOutOfMemory,
         "{} bytes of host memory are needed, {} are left of the container's limit of {}", bytes,
         memory.container_left(), memory.container_limit);
  }
  fail(ErrorCode::kOutOfMemory, "{} bytes of host memory are needed, {} are available", bytes,
       memory.available);
}

std::vector<int> cpus_near(const std::string& pci_device, const std::string& root) {
  int node = -1;
  std::ifstream(root + "/sys/bus/pci/devices/" + pci_device + "/numa_node") >> node;
  if (node < 0) return {};
  std::string list;
  std::ifstream(root + "/sys/devices/system/node/node" + std::to_string(node) + "/cpulist") >> list;
  return parse_cpu_list(list);
}

std::vector<int> parse_cpu_list(const std::string& text) {
  constexpr int kMost = 1 << 16;
  std::vector<int> cpus;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at < end) {
    int first = 0;
    auto parsed = std::from_chars(at, end, first);
    if (parsed.ec != std::errc()) break;
    int last = first;
    if (parsed.ptr < end && *parsed.ptr == '-') {
      parsed = std::from_chars(parsed.ptr + 1, end, last);
      if (parsed.ec != std::errc()) break;
    }
    if (first < 0 || last < first || last >= kMost) break;
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (parsed.ptr == end || *parsed.ptr != ',') break;
    at = parsed.ptr + 1;
  }
  return cpus;
}

void run_on(const std::vector<int>& cpus) {
  cpu_set_t allowed, wanted;
  CPU_ZERO(&allowed);
  CPU_ZERO(&wanted);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  for (const int cpu : cpus) {
    if (cpu < CPU_SETSIZE && CPU_ISSET(cpu, &allowed)) CPU_SET(cpu, &wanted);
  }
  if (CPU_COUNT(&wanted) > 0) (void)sched_setaffinity(0, sizeof(wanted), &wanted);
}

}  // namespace freekv
