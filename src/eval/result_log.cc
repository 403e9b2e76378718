#include "eval/result_log.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "freekv/error.hpp"
#include "io/mapped_file.hpp"

namespace freekv::eval {
namespace {

[[noreturn]] void system_error(const std::string& path) {
  throw Error(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, std::strerror(errno), path);
}

/// Calls use(row) for each whole line; returns the bytes of these lines.
template <typename Use>
size_t for_each_row(std::string_view bytes, const std::string& path, Use use) {
  size_t at = 0;
  for (size_t number = 1;; ++number) {
    const size_t end = bytes.find('\n', at);
    if (end == std::string_view::npos) return at;
    use(parse_row(bytes.substr(at, end - at), path, number));
    at = end + 1;
  }
}

std::string read_all(int file, const std::string& path) {
  std::string bytes;
  char block[1 << 16];
  for (;;) {
    const ssize_t got = ::read(file, block, sizeof block);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) system_error(path);
    if (got == 0) return bytes;
    bytes.append(block, static_cast<size_t>(got));
  }
}

}  // namespace

ResultLog::ResultLog(const std::string& path) : path_(path) {
  file_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) system_error(path);
  try {
    if (::flock(file_, LOCK_EX | LOCK_NB) != 0) {
      throw Error(ErrorCode::kIo, "another run is appending to this file", path);
    }
    const std::string bytes = read_all(file_, path);
    const size_t whole =
        for_each_row(bytes, path, [&](const ResultRow& row) { done_.insert(row.key()); });
    cut_bytes_ = bytes.size() - whole;
    if (cut_bytes_ > 0 && ::ftruncate(file_, static_cast<off_t>(whole)) != 0) system_error(path);
  } catch (...) {
    ::close(file_);
    throw;
  }
}

ResultLog::~ResultLog() { ::close(file_); }

void ResultLog::append(const ResultRow& row) {
  const std::string line = row.json() + '\n';
  for (size_t at = 0; at < line.size();) {
    const ssize_t put = ::write(file_, line.data() + at, line.size() - at);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) system_error(path_);
    at += static_cast<size_t>(put);
  }
  done_.insert(row.key());
}

std::vector<ResultRow> read_results(const std::string& path) {
  const MappedFile file = MappedFile::open(path).value();
  const auto bytes = file.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<ResultRow> rows;
  const size_t whole =
      for_each_row(text, path, [&](ResultRow row) { rows.push_back(std::move(row)); });
  // A last line without its end is a result too, when it is a whole one.
  if (whole < text.size()) rows.push_back(parse_row(text.substr(whole), path, rows.size() + 1));
  return rows;
}

}  // namespace freekv::eval
