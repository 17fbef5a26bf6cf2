// at::parallel_for, as it is compiled here.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <mutex>
#include <set>
#include <thread>

namespace trestle {
namespace {

// libtorch's template runs on the caller's thread alone where OpenMP is off at compile time.
TEST(ParallelFor, TakesTheThreadsThatLibtorchHas) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "built without OpenMP for the thread sanitizer";
#endif
  const int before = at::get_num_threads();
  at::set_num_threads(3);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  at::parallel_for(0, 3, 1, [&](int64_t, int64_t) {
    const std::scoped_lock lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  at::set_num_threads(before);
  EXPECT_EQ(threads.size(), 3u);
}

}  // namespace
}  // namespace trestle
