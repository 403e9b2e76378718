#include "read_file.hpp"

#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "freekv/error.hpp"

namespace freekv::app {

std::string read_file(const std::string& path) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(nullptr, std::fclose);
  std::FILE* stream = stdin;
  if (path != "-") {
    struct stat status {};
    if (stat(path.c_str(), &status) != 0) {
      throw Error(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, std::strerror(errno),
                  path);
    }
    if (S_ISDIR(status.st_mode)) throw Error(ErrorCode::kIo, "is a directory, not a file", path);
    file.reset(std::fopen(path.c_str(), "rb"));
    if (!file) throw Error(ErrorCode::kIo, std::strerror(errno), path);
    stream = file.get();
  }
  std::string bytes;
  char block[1 << 16];
  for (size_t got = 0; (got = std::fread(block, 1, sizeof block, stream)) > 0;) {
    bytes.append(block, got);
  }
  if (std::ferror(stream)) throw Error(ErrorCode::kIo, std::strerror(errno), path);
  return bytes;
}

}  // namespace freekv::app
