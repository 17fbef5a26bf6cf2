// Blocks on their way to a card: none is written over before it is there. A card's copies are
// played by a transfer that does nothing until it is waited for.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>

#include "bridge/upload.h"
#include "golden.h"

namespace trestle {
namespace {

class Late : public Transfer {
 public:
  struct Log {
    int64_t buffers = 0, most_under_way = 0;
  };
  explicit Late(Log& log) : log_(log) {}
  ~Late() override { EXPECT_TRUE(under_way_.empty()); }
  at::Tensor buffer(int64_t bytes) const override {
    ++log_.buffers;
    return at::empty({bytes}, at::kByte);
  }
  void start(size_t slot, const at::Tensor& from, const at::Tensor& to) override {
    ASSERT_FALSE(under_way_.contains(slot)) << "a copy is under way in this slot";
    under_way_[slot] = [from, to] { to.copy_(from); };
    log_.most_under_way = std::max<int64_t>(log_.most_under_way, std::ssize(under_way_));
  }
  void wait(size_t slot) override {
    ASSERT_TRUE(under_way_.contains(slot));
    under_way_[slot]();
    under_way_.erase(slot);
  }

 private:
  Log& log_;
  std::map<size_t, std::function<void()>> under_way_;
};

TEST(Upload, EveryBlockIsThereAndTwoAreUnderWay) {
  Late::Log log;
  Upload upload(std::make_unique<Late>(log));
  std::vector<at::Tensor> wanted, places;
  for (int64_t i = 0; i < 7; ++i) {
    // Of several sizes, and cast where the place has another dtype.
    const at::Tensor block = at::full({i % 3 + 1, 5}, static_cast<double>(i), at::kBFloat16);
    std::memcpy(upload.next(static_cast<int64_t>(block.nbytes())), block.const_data_ptr(),
                block.nbytes());
    places.push_back(at::full(block.sizes(), -1, i % 2 == 0 ? at::kFloat : at::kBFloat16));
    upload.send(at::kBFloat16, places.back());
    wanted.push_back(block.to(places.back().scalar_type()));
  }
  upload.finish();
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_TRUE(at::equal(places[i], wanted[i])) << i;
  EXPECT_EQ(log.most_under_way, 2);
  EXPECT_LE(log.buffers, 4);  // grown, and used again
}

TEST(Upload, WhatIsUnderWayIsThroughBeforeItsMemoryGoes) {
  Late::Log log;
  const at::Tensor place = at::zeros({2});
  {
    Upload upload(std::make_unique<Late>(log));
    *reinterpret_cast<float*>(upload.next(8)) = 3;
    upload.send(at::kFloat, place);
  }
  EXPECT_EQ(place[0].item<float>(), 3);
}

TEST(Upload, TheCpusTransferIsDoneAtOnce) {
  Upload upload(make_transfer(at::kCPU));
  const at::Tensor place = at::zeros({});
  *reinterpret_cast<float*>(upload.next(4)) = 3;
  upload.send(at::kFloat, place);
  EXPECT_EQ(place.item<float>(), 3);
}

}  // namespace
}  // namespace trestle
