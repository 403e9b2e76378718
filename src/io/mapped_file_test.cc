#include "io/mapped_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include "support/scratch_folder.hpp"

namespace freekv {
namespace {

class MappedFileTest : public testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    return folder_.write(name, text);
  }

  static void expect_error(const std::string& path, ErrorCode code, const std::string& part) {
    const Result<MappedFile> file = MappedFile::open(path);
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.error().code(), code);
    EXPECT_EQ(file.error().where(), path);
    EXPECT_THAT(file.error().message(), testing::HasSubstr(part));
  }

  testing_support::ScratchFolder folder_;
};

TEST_F(MappedFileTest, MapsEveryByteAndSurvivesMoves) {
  const std::string text = std::string(10000, 'x') + "end";
  MappedFile first = MappedFile::open(write("a", text)).value();
  const std::byte* address = first.bytes().data();
  MappedFile second(std::move(first));
  EXPECT_EQ(second.bytes().data(), address);
  MappedFile third = MappedFile::open(write("b", "other")).value();
  third = std::move(second);
  ASSERT_EQ(third.bytes().size(), text.size());
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(third.bytes().data()), text.size()), text);
  EXPECT_EQ(third.path(), folder_.file("a"));
}

TEST_F(MappedFileTest, PrefetchAcceptsAnyRange) {
  const MappedFile file = MappedFile::open(write("a", std::string(9000, 'x'))).value();
  file.prefetch(0, 9000);
  file.prefetch(5000, SIZE_MAX);
  file.prefetch(SIZE_MAX, SIZE_MAX);
  file.prefetch(9000, 0);
  EXPECT_EQ(file.bytes().size(), 9000u);
}

TEST_F(MappedFileTest, RefusesWhatIsNoFile) {
  expect_error(folder_.file("missing"), ErrorCode::kNotFound, "No such file");
  expect_error(write("plain", "x") + "/below", ErrorCode::kNotFound, "Not a directory");
  expect_error(folder_.path(), ErrorCode::kInvalidArgument, "is a directory");
  expect_error(write("empty", ""), ErrorCode::kParse, "is empty");
  expect_error("/dev/zero", ErrorCode::kInvalidArgument, "not a regular file");
}

TEST_F(MappedFileTest, RefusesAFifoWithoutWaiting) {
  const std::string path = folder_.file("fifo");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  expect_error(path, ErrorCode::kInvalidArgument, "not a regular file");
}

TEST_F(MappedFileTest, ReportsAnUnreadableFile) {
  if (::geteuid() == 0) GTEST_SKIP() << "root reads everything";
  const std::string path = write("secret", "x");
  ::chmod(path.c_str(), 0);
  expect_error(path, ErrorCode::kIo, "Permission denied");
}

TEST_F(MappedFileTest, ReportsWhatTheSystemSays) {
  const std::string path = write("a", "x");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none{0, before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const Result<MappedFile> file = MappedFile::open(path);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().code(), ErrorCode::kIo);
  EXPECT_THAT(file.error().message(), testing::HasSubstr("Too many open files"));
}

}  // namespace
}  // namespace freekv
