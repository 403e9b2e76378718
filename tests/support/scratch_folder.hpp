// Where a test writes files. For tests alone.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

namespace freekv::testing_support {

// A folder of its own, removed with all that is in it. The same test may run in two processes at
// once (shards, two builds, two users of a machine), so that no name of a file outside it is safe.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = testing::TempDir() + "freekv_XXXXXX";
    if (mkdtemp(name.data()) == nullptr) {
      throw std::system_error(errno, std::generic_category(), name);
    }
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::string& path() const { return path_; }
  // The path of the file, which may not be there yet.
  std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }
  // Writes the file, whole, and returns its path.
  std::string write(std::string_view name, std::string_view bytes) const {
    std::ofstream out(file(name), std::ios::binary);
    out << bytes;
    if (!out.flush()) ADD_FAILURE() << file(name) << ": cannot write";
    return file(name);
  }

 private:
  std::string path_;
};

}  // namespace freekv::testing_support
