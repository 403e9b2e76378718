// A file's bytes without reading them: a read-only memory mapping.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "freekv/error.hpp"

namespace freekv {

/// Owns the mapping of one whole regular file; bytes() is valid until destruction or until the
/// object is assigned to (moving it away keeps the address). Pages are read on first touch, so
/// opening is instant at any size. The file must not be shortened while mapped: the operating
/// system then delivers SIGBUS, which no check here can prevent.
class MappedFile {
 public:
  /// Errors carry the path in `where`: kNotFound when it does not exist, kInvalidArgument when it
  /// is a directory or not a regular file, kParse when it is empty, kIo when the system refuses.
  static Result<MappedFile> open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  /// The mapped bytes, at a page-aligned address; never empty.
  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

  /// Asks the system to read [offset, offset + length) ahead, without waiting. A hint: ranges
  /// outside the file are cut and failures ignored.
  void prefetch(size_t offset, size_t length) const;

 private:
  MappedFile(std::string path, std::span<const std::byte> bytes);

  std::string path_;
  std::span<const std::byte> bytes_;
};

}  // namespace freekv
