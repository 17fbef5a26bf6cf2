// Which cores a rank has.
#include <gtest/gtest.h>
#include <sched.h>

#include <fstream>
#include <numeric>
#include <string>

#include "launch/cores.h"
#include "temp_dir.h"

namespace trestle {
namespace {

using testing::InDirectory;

std::vector<int> cores(int count, int first = 0) {
  std::vector<int> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), first);
  return out;
}

TEST(ShareCores, ConsecutiveAndAsEvenAsTheyCanBe) {
  const auto shares = share_cores(cores(10, 4), {}, 4);
  ASSERT_EQ(shares.size(), 4U);
  EXPECT_EQ(shares[0].pinned, (std::vector{4, 5}));
  EXPECT_EQ(shares[1].pinned, (std::vector{6, 7, 8}));
  EXPECT_EQ(shares[2].pinned, (std::vector{9, 10}));
  EXPECT_EQ(shares[3].pinned, (std::vector{11, 12, 13}));
  for (const RankCores& each : shares) EXPECT_EQ(each.threads, 2);
  EXPECT_EQ(share_cores({3, 9}, {}, 2)[1].pinned, std::vector{9});
}

TEST(ShareCores, NobodyIsPinnedWhereRanksOutnumberCores) {
  for (const RankCores& each : share_cores(cores(3), {}, 4)) {
    EXPECT_EQ(each.pinned, std::vector<int>{});
    EXPECT_EQ(each.threads, 1);
  }
}

TEST(ShareCores, AQuotaBoundsTheThreadsOfAllTogether) {
  const auto shares = share_cores(cores(16), 4, 2);
  EXPECT_EQ(shares[0].threads, 2);
  EXPECT_EQ(shares[0].pinned, cores(8));
  EXPECT_EQ(share_cores(cores(16), 64, 2)[0].threads, 8);
  EXPECT_EQ(share_cores(cores(16), 1, 2)[0].threads, 1);
}

TEST(AllowedCores, AreThoseOfTheMask) {
  cpu_set_t mask;
  ASSERT_EQ(::sched_getaffinity(0, sizeof mask, &mask), 0);
  const std::vector<int> allowed = allowed_cores();
  EXPECT_EQ(static_cast<int>(allowed.size()), CPU_COUNT(&mask));
  for (const int core : allowed) EXPECT_TRUE(CPU_ISSET(static_cast<size_t>(core), &mask));
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(allowed.back()), &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(allowed_cores(), std::vector{allowed.back()});
  ::sched_setaffinity(0, sizeof mask, &mask);
}

class CoreQuota : public InDirectory<> {
 protected:
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories((directory_ / name).parent_path());
    std::ofstream(directory_ / name) << text;
  }
};

TEST_F(CoreQuota, OfVersion2IsTheLeastOfAGroupAndThoseAboveIt) {
  write("proc/self/cgroup", "0::/slice/job\n");
  EXPECT_EQ(core_quota(directory_), std::nullopt);
  write("sys/fs/cgroup/slice/job/cpu.max", "max 100000\n");
  EXPECT_EQ(core_quota(directory_), std::nullopt);
  write("sys/fs/cgroup/slice/cpu.max", "850000 100000\n");
  EXPECT_EQ(core_quota(directory_), 8);
  write("sys/fs/cgroup/slice/job/cpu.max", "200000 50000\n");
  EXPECT_EQ(core_quota(directory_), 4);
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(core_quota(directory_), 1);
}

TEST_F(CoreQuota, OfVersion1) {
  write("proc/self/cgroup", "5:memory:/job\n4:cpu,cpuacct:/job\n");
  for (const char* mount : {"cpu,cpuacct", "cpu"}) {
    SCOPED_TRACE(mount);
    const std::string folder = std::string("sys/fs/cgroup/") + mount;
    write(folder + "/job/cpu.cfs_period_us", "100000\n");
    write(folder + "/job/cpu.cfs_quota_us", "-1\n");
    EXPECT_EQ(core_quota(directory_), std::nullopt);
    write(folder + "/job/cpu.cfs_quota_us", "300000\n");
    EXPECT_EQ(core_quota(directory_), 3);
    std::filesystem::remove_all(directory_ / "sys");
  }
  write("sys/fs/cgroup/memory/job/cpu.max", "100000 100000\n");
  EXPECT_EQ(core_quota(directory_), std::nullopt);
}

}  // namespace
}  // namespace trestle
