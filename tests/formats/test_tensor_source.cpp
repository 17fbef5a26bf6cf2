// Blocks of a tensor read by several threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cstring>
#include <mutex>

#include "base/error.h"
#include "formats/tensor_source.h"

namespace trestle {
namespace {

// [rows, 256] fp32, each value its place; notes who asked for what.
class Noting : public TensorSource {
 public:
  static constexpr int64_t kRows = 6000, kColumns = 256;

  const std::map<std::string, TensorInfo>& tensors() const override { return tensors_; }
  at::Tensor read(const std::string&) const override {
    return at::arange(kRows * kColumns, at::kFloat).view({kRows, kColumns});
  }
  void read_rows(const std::string& name, RowRange range, std::byte* out) const override {
    if (range.first <= broken_row && broken_row < range.first + range.count) {
      user_error("row {} of {} is broken", broken_row, name);
    }
    const at::Tensor rows =
        at::arange(range.first * kColumns, (range.first + range.count) * kColumns, at::kFloat);
    std::memcpy(out, rows.const_data_ptr(), rows.nbytes());
    const std::scoped_lock lock(mutex_);
    for (int64_t row = range.first; row < range.first + range.count; ++row) ++times_[row];
    ++parts_;
  }

  int64_t broken_row = -1;
  mutable std::map<int64_t, int64_t> times_;
  mutable int64_t parts_ = 0;

 private:
  std::map<std::string, TensorInfo> tensors_{{"a", {at::kFloat, {kRows, kColumns}}}};
  mutable std::mutex mutex_;
};

class ReadTogether : public testing::Test {
 protected:
  ReadTogether() { at::set_num_threads(4); }
  ~ReadTogether() override { at::set_num_threads(threads_); }

 private:
  int threads_ = at::get_num_threads();
};

TEST_F(ReadTogether, EachRowIsReadOnceAndStandsInItsPlace) {
  const Noting source;
  at::Tensor out = at::full({5000, Noting::kColumns}, -1.0);
  read_rows_together(source, "a", {700, 5000}, static_cast<std::byte*>(out.mutable_data_ptr()));
  EXPECT_TRUE(at::equal(out, source.read("a").narrow(0, 700, 5000)));
  EXPECT_EQ(source.parts_, 4);
  ASSERT_EQ(source.times_.size(), 5000u);
  for (const auto& [row, times] : source.times_) EXPECT_EQ(times, 1) << row;
}

TEST_F(ReadTogether, WhatIsSmallIsReadAtOnce) {
  const Noting source;
  at::Tensor out = at::empty({1000, Noting::kColumns});
  read_rows_together(source, "a", {0, 1000}, static_cast<std::byte*>(out.mutable_data_ptr()));
  EXPECT_EQ(source.parts_, 1);
}

TEST_F(ReadTogether, AnErrorOfAnyThreadIsTheCallers) {
  Noting source;
  source.broken_row = 4999;
  at::Tensor out = at::empty({Noting::kRows, Noting::kColumns});
  auto* const bytes = static_cast<std::byte*>(out.mutable_data_ptr());
  EXPECT_THROW(read_rows_together(source, "a", {0, Noting::kRows}, bytes), UserError);
}

}  // namespace
}  // namespace trestle
