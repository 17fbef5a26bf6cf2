// The main of every stage's tests.
#include <ATen/Context.h>
#include <gtest/gtest.h>

namespace {

// So that a test draws the same numbers alone as among others, in whatever order.
class Seeded : public ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo& info) override { at::manual_seed(1); }
};

}  // namespace

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  ::testing::UnitTest::GetInstance()->listeners().Append(new Seeded);
  return RUN_ALL_TESTS();
}
