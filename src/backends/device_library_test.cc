#include "backends/device_library.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "freekv/error.hpp"

namespace freekv {
namespace {

std::string message_of(const std::string& file, const std::string& function) {
  try {
    load_device_library(file, function);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kDevice);
    return error.message();
  }
  return "";
}

TEST(DeviceLibrary, NamesWhatWasLookedFor) {
  const std::string message = message_of("libfreekv_of_nobody.so", "open");
  EXPECT_THAT(message, testing::HasSubstr("libfreekv_of_nobody.so is not found in /"));
  EXPECT_THAT(message, testing::HasSubstr("LD_LIBRARY_PATH"));
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

TEST(DeviceLibrary, OtherLibrariesAreToldFromBackends) {
  EXPECT_THAT(message_of("libc.so.6", "freekv_cuda_open"),
              testing::HasSubstr("libc.so.6 has no function freekv_cuda_open"));
}

}  // namespace
}  // namespace freekv
