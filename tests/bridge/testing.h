// What the bridge's tests share: a directory of their own, sources compared bit for bit, and errors
// as text.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string>

#include "base/error.h"
#include "errors.h"
#include "formats/tensor_source.h"

namespace trestle {

/// Made before a test and removed behind it; `Test` is a gtest fixture.
template <class Test>
class InDirectory : public Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    std::string suite = info->test_suite_name();
    std::replace(suite.begin(), suite.end(), '/', '-');
    directory_ =
        std::filesystem::temp_directory_path() / fmt::format("trestle-{}-{}", suite, ::getpid());
    std::filesystem::create_directories(directory_);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  std::filesystem::path directory_;
};

inline void expect_equal(const TensorSource& got, const TensorSource& wanted) {
  ASSERT_EQ(got.tensors(), wanted.tensors());
  for (const auto& [name, info] : wanted.tensors()) {
    const at::Tensor a = got.read(name).contiguous(), b = wanted.read(name).contiguous();
    ASSERT_EQ(a.nbytes(), b.nbytes()) << name;
    if (b.nbytes() == 0) continue;
    EXPECT_EQ(std::memcmp(a.const_data_ptr(), b.const_data_ptr(), b.nbytes()), 0) << name;
  }
}

}  // namespace trestle
