// How much host memory there is to take and lock, and where it should lie, as the system tells. All
// files are read below `root`, which tests replace.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace freekv {

struct HostMemory {
  size_t available = SIZE_MAX;        // MemAvailable of /proc/meminfo; SIZE_MAX: not known
  size_t container_limit = SIZE_MAX;  // of the cgroup that leaves least; SIZE_MAX: none
  size_t container_used = 0;          // there; memory that can be taken back, as file caches, apart

  size_t container_left() const {
    return container_limit > container_used ? container_limit - container_used : 0;
  }
  /// What can be taken without the system killing somebody for it.
  size_t left() const { return available < container_left() ? available : container_left(); }
};
/// Of this process, by cgroup v2 or v1, the limits of enclosing groups included.
HostMemory host_memory(const std::string& root = "");

/// Throws Error(kOutOfMemory) with both byte counts where `bytes` are more than memory.left().
void check_host_memory(size_t bytes, const HostMemory& memory);

/// CPUs of the NUMA node that a PCI device ("0000:1b:00.0") is attached to; empty where the system
/// does not say, as on machines with one node.
std::vector<int> cpus_near(const std::string& pci_device, const std::string& root = "");

/// "0-3,8" as the numbers it stands for; what cannot be read ends the list.
std::vector<int> parse_cpu_list(const std::string& text);

/// From here on the calling thread runs on those of `cpus` that it may run on; on all it may where
/// there are none.
void run_on(const std::vector<int>& cpus);

}  // namespace freekv
