#include "backends/device_library.hpp"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>
#include <vector>

#include "core/check.hpp"

namespace freekv {
namespace {

namespace fs = std::filesystem;

/// Folders to look in, in this order, each once.
std::vector<fs::path> folders() {
  std::vector<fs::path> found;
  const auto add = [&](const fs::path& folder) {
    for (const fs::path& known : found) {
      if (known == folder) return;
    }
    found.push_back(folder);
  };
  const auto add_both = [&](const fs::path& file) {
    if (file.empty()) return;
    const fs::path folder = file.parent_path();
    add(folder);
    add(folder.parent_path() / "lib");
  };
  std::error_code ignored;
  add_both(fs::read_symlink("/proc/self/exe", ignored));
  Dl_info here{};
  if (dladdr(reinterpret_cast<const void*>(&load_device_library), &here) != 0 && here.dli_fname) {
    add_both(fs::canonical(here.dli_fname, ignored));
  }
  return found;
}

/// Opened for good: errors thrown by the library refer to code inside it.
void* open_file(const std::string& path) {
  return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

void* find_library(const std::string& file) {
  std::string looked;
  for (const fs::path& folder : folders()) {
    const fs::path path = folder / file;
    std::error_code ignored;
    if (fs::exists(path, ignored)) {
      if (void* library = open_file(path)) return library;
      fail(ErrorCode::kDevice, "cannot be loaded: {}", dlerror());
    }
    looked += (looked.empty() ? "" : ", ") + folder.string();
  }
  if (void* library = open_file(file)) return library;
  const std::string reason = dlerror();
  // The system's words begin with the file that is missing: this one, or one that it needs.
  if (!reason.starts_with(file + ": cannot open shared object file")) {
    fail(ErrorCode::kDevice, "{} cannot be loaded: {}", file, reason);
  }
  fail(ErrorCode::kDevice,
       "{} is not found in {} or where LD_LIBRARY_PATH says; this backend comes with a build that "
       "has it",
       file, looked);
}

}  // namespace

const DeviceLibrary& load_device_library(const std::string& file, const std::string& function) {
  void* library = find_library(file);
  const auto open = reinterpret_cast<OpenDeviceLibrary>(dlsym(library, function.c_str()));
  if (!open) {
    fail(ErrorCode::kDevice, "{} has no function {}: it is not a backend of this program", file,
         function);
  }
  const DeviceLibrary* found = open();
  if (!found || found->interface != kDeviceInterface) {
    fail(ErrorCode::kDevice, "{} is of version {} (interface {}), this program needs interface {}",
         file, found ? found->version : "unknown", found ? found->interface : 0, kDeviceInterface);
  }
  return *found;
}

}  // namespace freekv
