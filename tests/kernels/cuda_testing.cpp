#include "kernels/cuda_testing.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "kernels/host_cuda/emulator.h"

namespace trestle::testing {

at::Tensor fenced_empty(at::IntArrayRef shape, at::ScalarType type) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(shape)) * c10::elementSize(type);
  const size_t inner = (bytes + page - 1) / page * page, all = inner + 2 * page;
  auto* pages =
      static_cast<std::byte*>(mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  TORCH_CHECK(pages != MAP_FAILED, "no memory for a test");
  if (inner > 0) mprotect(pages + page, inner, PROT_READ | PROT_WRITE);
  std::byte* data = pages + page + inner - bytes;
  std::memset(data, 0xFF, bytes);
  return at::from_blob(
      data, shape, [pages, all](void*) { munmap(pages, all); }, type);
}

at::Tensor fenced(const at::Tensor& values) {
  return fenced_empty(values.sizes(), values.scalar_type()).copy_(values);
}

namespace {

bool is_same(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() &&
         std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

}  // namespace

std::vector<at::Tensor> in_every_order(const std::function<std::vector<at::Tensor>()>& kernels) {
  using host_cuda::Order;
  host_cuda::set_schedule({Order::kAscending});
  const std::vector<at::Tensor> first = kernels();
  for (const host_cuda::Schedule& schedule :
       {host_cuda::Schedule{Order::kDescending}, {Order::kShuffled, 1}, {Order::kShuffled, 2}}) {
    host_cuda::set_schedule(schedule);
    const std::vector<at::Tensor> again = kernels();
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_TRUE(is_same(first[i], again[i]))
          << "result " << i << " depends on the threads' order";
    }
  }
  host_cuda::set_schedule({});
  return first;
}

cuda::Type type_of(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kFloat ? cuda::Type::kFloat : cuda::Type::kBFloat16;
}

void expect_near(const at::Tensor& got, const at::Tensor& wanted, double limit,
                 const std::string& what) {
  ASSERT_EQ(got.sizes(), wanted.sizes()) << what;
  const double error = (exact(got) - wanted).norm().item<double>();
  EXPECT_LE(error, limit * wanted.norm().item<double>()) << what;
}

void expect_exact(const at::Tensor& got, const at::Tensor& wanted, const std::string& what,
                  int roundings) {
  constexpr int64_t kMany = 1000;
  const double rounding = got.numel() < kMany ? 0x1p-8 : 0x1p-9;
  expect_near(got, wanted, got.scalar_type() == at::kFloat ? 1e-5 : roundings * rounding + 1e-5,
              what);
}

}  // namespace trestle::testing
