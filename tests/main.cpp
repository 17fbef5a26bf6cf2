// The main of every stage's tests.
#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace {

// So that a test draws the same numbers alone as among others, in whatever order.
class Seeded : public ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo& info) override { at::manual_seed(1); }
};

}  // namespace

int main(int argc, char** argv) {
  // ctest -L gpu on a machine without a card: skipped, and said.
  const char* device = std::getenv("TRESTLE_TEST_DEVICE");
  if (device != nullptr && std::string_view(device).starts_with("cuda") &&
      (!at::globalContext().hasCUDA() || at::detail::getCUDAHooks().deviceCount() == 0)) {
    std::puts("no card is here");
    constexpr int kSkipped = 77;
    return kSkipped;
  }
  ::testing::InitGoogleTest(&argc, argv);
  ::testing::UnitTest::GetInstance()->listeners().Append(new Seeded);
  return RUN_ALL_TESTS();
}
