#include "io/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <limits>
#include <string_view>
#include <system_error>
#include <utility>

namespace freekv {
namespace {

Error system_error(std::string_view action, int code, const std::string& path) {
  return Error(code == ENOENT || code == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo,
               std::string(action) + ": " + std::generic_category().message(code), path);
}

/// Closes on scope exit; the mapping outlives the descriptor.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  // Non-blocking, so that opening a FIFO returns and is refused below instead of waiting.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) return system_error("cannot open", errno, path);
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) return system_error("cannot stat", errno, path);
  if (S_ISDIR(status.st_mode)) {
    return Error(ErrorCode::kInvalidArgument, "is a directory, expected a file", path);
  }
  if (!S_ISREG(status.st_mode)) {
    return Error(ErrorCode::kInvalidArgument, "is not a regular file", path);
  }
  if (status.st_size == 0) return Error(ErrorCode::kParse, "is empty (0 bytes)", path);
  if (static_cast<uintmax_t>(status.st_size) > std::numeric_limits<size_t>::max()) {
    return Error(ErrorCode::kIo, "is larger than the address space", path);
  }
  const auto size = static_cast<size_t>(status.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd, 0);
  if (address == MAP_FAILED) return system_error("cannot map", errno, path);
  return MappedFile(path, {static_cast<const std::byte*>(address), size});
}

MappedFile::MappedFile(std::string path, std::span<const std::byte> bytes)
    : path_(std::move(path)), bytes_(bytes) {}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::prefetch(size_t offset, size_t length) const {
  if (offset >= bytes_.size() || length == 0) return;
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page;
  const size_t end = offset + std::min(length, bytes_.size() - offset);
  ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, MADV_WILLNEED);
}

}  // namespace freekv
