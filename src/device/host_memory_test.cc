#include "device/host_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <string>
#include <thread>

#include "freekv/error.hpp"
#include "support/scratch_folder.hpp"

namespace freekv {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr size_t kGiB = size_t{1} << 30;

// A folder in which the system's files can be made up; none of these tests needs a GPU.
class HostMemoryFiles : public testing::Test {
 protected:
  void SetUp() override {
    write("/proc/meminfo", "MemTotal: 209715200 kB\nMemFree: 1 kB\nMemAvailable: 104857600 kB\n");
  }
  void write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    folder_.write(path, text);
  }
  testing_support::ScratchFolder folder_;
  const std::string& root_ = folder_.path();
};

TEST_F(HostMemoryFiles, WithoutAContainerIsWhatTheMachineHas) {
  const HostMemory memory = host_memory(root_);
  EXPECT_EQ(memory.available, 100 * kGiB);
  EXPECT_EQ(memory.container_limit, SIZE_MAX);
  EXPECT_EQ(memory.left(), 100 * kGiB);
}

TEST_F(HostMemoryFiles, ReadsCgroupVersion2) {
  write("/proc/self/cgroup", "0::/\n");
  write("/sys/fs/cgroup/memory.max", "68719476736\n");
  write("/sys/fs/cgroup/memory.stat", "file 900\nanon 4294967296\n");
  const HostMemory memory = host_memory(root_);
  EXPECT_EQ(memory.container_limit, 64 * kGiB);
  EXPECT_EQ(memory.container_used, 4 * kGiB);
  EXPECT_EQ(memory.left(), 60 * kGiB);
}

TEST_F(HostMemoryFiles, ReadsTheGroupThatLeavesLeast) {
  write("/proc/self/cgroup", "0::/machine/job\n");
  write("/sys/fs/cgroup/machine/memory.max", "68719476736\n");
  write("/sys/fs/cgroup/machine/memory.stat", "anon 66571993088\n");  // leaves 2 GiB
  write("/sys/fs/cgroup/machine/job/memory.max", "8589934592\n");
  write("/sys/fs/cgroup/machine/job/memory.stat", "anon 1024\n");
  EXPECT_EQ(host_memory(root_).left(), 2 * kGiB);
  write("/sys/fs/cgroup/machine/memory.max", "max\n");
  EXPECT_EQ(host_memory(root_).left(), 8 * kGiB - 1024);
}

TEST_F(HostMemoryFiles, ReadsCgroupVersion1) {
  // The path is the host's, the container sees its own group at the root.
  write("/proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/docker/0123\n0::/\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "17179869184\n");
  write("/sys/fs/cgroup/memory/memory.stat", "cache 5\ntotal_rss 1073741824\n");
  const HostMemory memory = host_memory(root_);
  EXPECT_EQ(memory.container_limit, 16 * kGiB);
  EXPECT_EQ(memory.left(), 15 * kGiB);
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(host_memory(root_).container_limit, SIZE_MAX);
  EXPECT_EQ(host_memory(root_).left(), 100 * kGiB);
}

TEST_F(HostMemoryFiles, MissingOrOddFilesLimitNothing) {
  EXPECT_EQ(host_memory(root_ + "/nowhere").left(), SIZE_MAX);
  write("/proc/self/cgroup", "\n:\n4:memory\n4:memory:nothing\n0::\n");
  write("/sys/fs/cgroup/memory.max", "a lot\n");
  EXPECT_EQ(host_memory(root_).left(), 100 * kGiB);
}

TEST_F(HostMemoryFiles, FindsTheCpusNearADevice) {
  const std::string device = "0000:1b:00.0";
  EXPECT_THAT(cpus_near(device, root_), IsEmpty());
  write("/sys/bus/pci/devices/0000:1b:00.0/numa_node", "-1\n");
  EXPECT_THAT(cpus_near(device, root_), IsEmpty());
  write("/sys/bus/pci/devices/0000:1b:00.0/numa_node", "1\n");
  EXPECT_THAT(cpus_near(device, root_), IsEmpty());
  write("/sys/devices/system/node/node1/cpulist", "2-4,8\n");
  EXPECT_THAT(cpus_near(device, root_), ElementsAre(2, 3, 4, 8));
}

TEST(HostMemory, ParsesCpuLists) {
  EXPECT_THAT(parse_cpu_list("0"), ElementsAre(0));
  EXPECT_THAT(parse_cpu_list("0-2,5,7-8"), ElementsAre(0, 1, 2, 5, 7, 8));
  for (const char* odd : {"", "x", "-1", "3-1", "0-99999999", "9999999999999"}) {
    EXPECT_THAT(parse_cpu_list(odd), IsEmpty()) << odd;
  }
  EXPECT_THAT(parse_cpu_list("1,,2"), ElementsAre(1));
}

TEST(HostMemory, SaysWhatIsNeededAndWhatIsLeft) {
  const auto message_of = [](size_t bytes, const HostMemory& memory) {
    try {
      check_host_memory(bytes, memory);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
      return error.message();
    }
    return std::string();
  };
  EXPECT_EQ(message_of(1000, {.available = 1000}), "");
  EXPECT_EQ(message_of(1001, {.available = 1000}),
            "1001 bytes of host memory are needed, 1000 are available");
  EXPECT_EQ(message_of(1001, {.available = 5000, .container_limit = 3000, .container_used = 2100}),
            "1001 bytes of host memory are needed, 900 are left of the container's limit of 3000");
  EXPECT_EQ(message_of(1, {.available = 9, .container_limit = 3, .container_used = 7}),
            "1 bytes of host memory are needed, 0 are left of the container's limit of 3");
  EXPECT_EQ(message_of(7, {}), "");
}

TEST(HostMemory, ThisMachineHasSome) { EXPECT_GT(host_memory().left(), size_t{1} << 20); }

TEST(HostMemory, ThreadsStayWhereTheyMayRun) {
  const auto cpus_after = [](const std::vector<int>& wanted) {
    int count = 0;
    std::thread([&] {
      run_on(wanted);
      cpu_set_t set;
      CPU_ZERO(&set);
      ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
      count = CPU_COUNT(&set);
    }).join();
    return count;
  };
  const int all = cpus_after({});
  EXPECT_GE(all, 1);
  EXPECT_EQ(cpus_after({5000, 100000}), all);
  cpu_set_t set;
  CPU_ZERO(&set);
  ASSERT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  int own = 0;
  while (!CPU_ISSET(own, &set)) ++own;
  EXPECT_EQ(cpus_after({own}), 1);
}

}  // namespace
}  // namespace freekv
