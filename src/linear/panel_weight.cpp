#include "linear/panel_weight.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "kernels/cuda_kernels.h"
#include "kernels/times_panels.h"
#include "linear/tiled_product.h"

namespace trestle {

namespace {

// A stream from one end to the other crosses a page of 4 KiB each hundred nanoseconds: large pages
// spare their look-ups. What the system makes of the advice is its own affair.
at::Tensor empty_bytes(int64_t count) {
  at::Tensor bytes = at::empty({count}, at::kByte);
#ifdef __linux__
  const auto page = static_cast<int64_t>(::sysconf(_SC_PAGESIZE));
  auto* const begin = static_cast<std::byte*>(bytes.data_ptr());
  const auto behind_page = static_cast<int64_t>(reinterpret_cast<uintptr_t>(begin)) % page;
  const int64_t skipped = (page - behind_page) % page;
  const int64_t whole = (count - skipped) / page * page;
  if (whole > 0) ::madvise(begin + skipped, static_cast<size_t>(whole), MADV_HUGEPAGE);
#endif
  return bytes;
}

}  // namespace

PanelWeight::PanelWeight(int64_t rows, int64_t columns, PanelForm form)
    : shape_{form, rows, columns}, panels_(empty_bytes(shape_.bytes())) {}

PanelWeight::PanelWeight(at::Tensor panels, const PanelShape& shape)
    : shape_(shape), panels_(std::move(panels)) {
  TORCH_CHECK(panels_.numel() == shape_.bytes(), "panels have the bytes of their shape");
}

PanelWeight::PanelWeight(const WeightParts& parts) : panels_(parts.tensors.front()) {
  const auto* numbers = parts.tensors[1].const_data_ptr<int64_t>();
  shape_ = {static_cast<PanelForm>(numbers[0]), numbers[1], numbers[2]};
}

WeightParts PanelWeight::parts() const {
  return {{panels_, at::tensor({static_cast<int64_t>(shape_.form), shape_.rows, shape_.columns},
                               at::kLong)}};
}

bool PanelWeight::set_rows(int64_t first, const at::Tensor& values) {
  return pack_rows(values.to(at::kBFloat16).contiguous(), first, panels_, shape_);
}

at::Tensor PanelWeight::dense(IndexRange rows, IndexRange columns, at::ScalarType dtype) const {
  TORCH_CHECK(columns.first % kPanelGroup == 0, "a tile starts at a group");
  at::Tensor values = at::empty({rows.count, columns.count}, at::kBFloat16);
  unpack_rows(panels_, shape_, rows.first, columns.first, values);
  return values.to(dtype);
}

at::Tensor PanelWeight::rows_at(const at::Tensor& ids_T) const {
  const at::Tensor ids = ids_T.to(at::kCPU).contiguous();
  const auto* id = ids.const_data_ptr<int64_t>();
  at::Tensor values = at::empty({ids.numel(), columns()}, at::kBFloat16);
  for (int64_t t = 0; t < ids.numel(); ++t) {
    TORCH_CHECK_INDEX(id[t] >= 0 && id[t] < rows(), "id ", id[t], " of ", rows());
    unpack_rows(panels_, shape_, id[t], 0, values.narrow(0, t, 1));
  }
  return values;
}

at::Tensor panel_linear(const at::Tensor& x, const PanelWeight& weight) {
  if (!asks_for_gradient({x})) return times_panels(x, weight.panels(), weight.shape());
  return TiledProduct<PanelWeight>::apply(x, weight);
}

}  // namespace trestle
