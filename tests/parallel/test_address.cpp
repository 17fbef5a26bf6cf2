// The address by which this machine reaches another.
#include <gtest/gtest.h>

#include "parallel/address.h"

namespace trestle {
namespace {

TEST(Address, TheLoopbackLeadsToNoOtherMachine) {
  EXPECT_EQ(address_towards("127.0.0.1", 29500), "");
  EXPECT_EQ(address_towards("localhost", 29500), "");
  EXPECT_EQ(address_towards("no.such.host.invalid", 29500), "");
}

}  // namespace
}  // namespace trestle
