#include "kernels/swiglu.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/by_rows.h"
#include "kernels/cuda_kernels.h"

namespace trestle {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Where gate and up lie: two tensors, or the halves of one's rows.
struct Halves {
  static Halves of(const at::Tensor& gate, const at::Tensor& up) {
    return {gate, static_cast<std::byte*>(up.data_ptr()), gate.size(-1), gate.size(-1)};
  }
  static Halves of(const at::Tensor& gate_up) {
    const int64_t columns = gate_up.size(-1) / 2;
    auto* first = static_cast<std::byte*>(gate_up.data_ptr());
    return {gate_up, first + columns * gate_up.element_size(), columns, 2 * columns};
  }
  int64_t rows() const { return stride == 0 ? 0 : first.numel() / stride; }

  const at::Tensor& first;
  std::byte* up;
  int64_t columns, stride;
};

at::Tensor forward_of(const Halves& from) {
  std::vector<int64_t> shape = from.first.sizes().vec();
  shape.back() = from.columns;
  at::Tensor y = at::empty(shape, from.first.options());
  if (const cuda::Kernels* kernels = kernels_for({from.first})) {
    launch(*kernels, &cuda::Kernels::swiglu_forward, "swiglu_forward", y,
           cuda::SwigluForward{.type = kernel_type(y.scalar_type()),
                               .rows = from.rows(),
                               .columns = from.columns,
                               .stride = from.stride,
                               .gate = from.first.const_data_ptr(),
                               .up = from.up,
                               .y = y.mutable_data_ptr()});
    return y;
  }
  by_value_type(y, [&]<class Value>(Value) {
    const auto* gate = static_cast<const Value*>(from.first.const_data_ptr());
    const auto* up = reinterpret_cast<const Value*>(from.up);
    auto* to = static_cast<Value*>(y.mutable_data_ptr());
    for_rows(from.rows(), from.columns, [&](int64_t row) {
      row_loops_here().of<Value>().swiglu(gate + row * from.stride, up + row * from.stride,
                                          from.columns, to + row * from.columns);
    });
  });
  return y;
}

void backward_of(const at::Tensor& gradient, const Halves& from, const Halves& to) {
  const at::Tensor dy = beside_each_other(gradient);
  if (const cuda::Kernels* kernels = kernels_for({from.first})) {
    launch(*kernels, &cuda::Kernels::swiglu_backward, "swiglu_backward", dy,
           cuda::SwigluBackward{.type = kernel_type(dy.scalar_type()),
                                .rows = from.rows(),
                                .columns = from.columns,
                                .stride = from.stride,
                                .dy = dy.const_data_ptr(),
                                .gate = from.first.const_data_ptr(),
                                .up = from.up,
                                .dgate = to.first.data_ptr(),
                                .dup = to.up});
    return;
  }
  by_value_type(dy, [&]<class Value>(Value) {
    const auto* above = static_cast<const Value*>(dy.const_data_ptr());
    const auto* gate = static_cast<const Value*>(from.first.const_data_ptr());
    const auto* up = reinterpret_cast<const Value*>(from.up);
    auto* dgate = static_cast<Value*>(to.first.data_ptr());
    auto* dup = reinterpret_cast<Value*>(to.up);
    for_rows(from.rows(), from.columns, [&](int64_t row) {
      const int64_t at = row * from.stride;
      row_loops_here().of<Value>().swiglu_backward(gate + at, up + at, above + row * from.columns,
                                                   from.columns, dgate + at, dup + at);
    });
  });
}

class SwigluOfTwo : public torch::autograd::Function<SwigluOfTwo> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate, const at::Tensor& up) {
    ctx->save_for_backward({gate, up});
    return forward_of(Halves::of(gate, up));
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor dgate = at::empty_like(saved[0]), dup = at::empty_like(saved[1]);
    backward_of(gradients[0], Halves::of(saved[0], saved[1]), Halves::of(dgate, dup));
    return {dgate, dup};
  }
};

class SwigluOfOne : public torch::autograd::Function<SwigluOfOne> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up) {
    ctx->save_for_backward({gate_up});
    return forward_of(Halves::of(gate_up));
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const at::Tensor gate_up = ctx->get_saved_variables().front();
    const at::Tensor gradient = at::empty_like(gate_up);
    backward_of(gradients[0], Halves::of(gate_up), Halves::of(gradient));
    return {gradient};
  }
};

bool is_taken(std::initializer_list<at::Tensor> tensors) {
  return kernels_for(tensors) != nullptr || takes_row_loops(tensors);
}

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  if (!is_taken({gate, up})) return at::silu(gate) * up;
  TORCH_CHECK(gate.sizes() == up.sizes(), "gate ", gate.sizes(), " and up ", up.sizes());
  const at::Tensor a = beside_each_other(gate), b = beside_each_other(up);
  return asks_for_gradient({a, b}) ? SwigluOfTwo::apply(a, b) : forward_of(Halves::of(a, b));
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  TORCH_CHECK(gate_up.size(-1) % 2 == 0, "no two halves in ", gate_up.sizes());
  if (!is_taken({gate_up})) {
    const std::vector<at::Tensor> halves = gate_up.chunk(2, -1);
    return at::silu(halves[0]) * halves[1];
  }
  const at::Tensor rows = beside_each_other(gate_up);
  return asks_for_gradient({rows}) ? SwigluOfOne::apply(rows) : forward_of(Halves::of(rows));
}

}  // namespace trestle
