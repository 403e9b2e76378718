// A file that appears whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace freekv {

/// Writes to a temporary file beside `path` and renames it there at the end. Until commit(), and
/// when it is destroyed without one, whatever was at `path` stays as it was. All throw Error(kIo)
/// naming the path.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  uint64_t written() const { return written_; }
  /// Flushes to the disk and renames.
  void commit();

 private:
  [[noreturn]] void fail_with(const char* action, int code) const;

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
  uint64_t written_ = 0;
};

}  // namespace freekv
