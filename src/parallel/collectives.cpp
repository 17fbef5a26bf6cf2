#include "parallel/collectives.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace trestle {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor reduced(const at::Tensor& x, const Group& group) {
  at::Tensor sum = x.clone(at::MemoryFormat::Contiguous);
  group.all_reduce(sum);
  return sum;
}

at::Tensor own_rows(const at::Tensor& x, const Group& group) {
  const int64_t rows = x.size(0) / group.size();
  TORCH_CHECK(rows * group.size() == x.size(0), x.size(0), " rows for ", group.size(), " ranks");
  return x.narrow(0, group.rank() * rows, rows);
}

struct Nothing {
  static at::Tensor apply(const at::Tensor& x, const Group&) { return x.view_as(x); }
};
struct AllReduce {
  static at::Tensor apply(const at::Tensor& x, const Group& group) { return reduced(x, group); }
};
struct AllGather {
  static at::Tensor apply(const at::Tensor& x, const Group& group) { return group.all_gather(x); }
};
struct ReduceScatter {
  static at::Tensor apply(const at::Tensor& x, const Group& group) {
    return group.reduce_scatter(x);
  }
};
struct OwnRows {
  static at::Tensor apply(const at::Tensor& x, const Group& group) { return own_rows(x, group); }
};

// Forward and Backward are each other's dual.
template <class Forward, class Backward>
class Exchange : public torch::autograd::Function<Exchange<Forward, Backward>> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const Group& group) {
    ctx->saved_data["group"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(group));
    return Forward::apply(x, group);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const auto held =
        c10::static_intrusive_pointer_cast<Held>(ctx->saved_data["group"].toCapsule());
    return {Backward::apply(gradients[0], held->group), {}};
  }

 private:
  struct Held : torch::CustomClassHolder {
    explicit Held(Group group) : group(std::move(group)) {}
    Group group;
  };
};

}  // namespace

at::Tensor copy_to(const at::Tensor& x, const Group& group) {
  return group.is_one() ? x : Exchange<Nothing, AllReduce>::apply(x, group);
}

at::Tensor reduce_from(const at::Tensor& x, const Group& group) {
  return group.is_one() ? x : Exchange<AllReduce, Nothing>::apply(x, group);
}

at::Tensor gather_from(const at::Tensor& x, const Group& group) {
  return group.is_one() ? x : Exchange<AllGather, ReduceScatter>::apply(x, group);
}

at::Tensor scatter_to(const at::Tensor& x, const Group& group) {
  return group.is_one() ? x : Exchange<ReduceScatter, AllGather>::apply(x, group);
}

at::Tensor slice_to(const at::Tensor& x, const Group& group) {
  return group.is_one() ? x : Exchange<OwnRows, AllGather>::apply(x, group);
}

}  // namespace trestle
