#include "kernels/rotate.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/by_rows.h"
#include "kernels/cuda_kernels.h"

namespace trestle {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum class Way { kForward, kBackward };

void turn_by_loops(const at::Tensor& from, const at::Tensor& to, const Rotation& rotation,
                   const at::Tensor& query_scale, Way way) {
  const int64_t T = from.size(0), G = from.size(1), N = from.size(2), H = from.size(3);
  by_value_type(from, [&]<class Value>(Value) {
    const auto data = [](const at::Tensor& tensor) {
      return static_cast<Value*>(tensor.data_ptr());
    };
    Value *x = data(from), *y = data(to), *cos = data(rotation.cos), *sin = data(rotation.sin);
    const Value* scale = query_scale.defined() ? data(query_scale) : nullptr;
    const auto& loops = row_loops_here().of<Value>();
    const auto turn = way == Way::kForward ? loops.rotate : loops.rotate_backward;
    for_rows(T * G, N * H, [&](int64_t row) {
      const int64_t t = row / G, g = row % G;
      const Value* heads = x + t * from.stride(0) + g * from.stride(1);
      Value* turned = y + t * to.stride(0) + g * to.stride(1);
      for (int64_t n = 0; n < N; ++n) {
        turn(heads + n * H, cos + t * H, sin + t * H, scale == nullptr ? nullptr : scale + t, H,
             turned + n * H);
      }
    });
  });
}

// From [T, G, heads, H] to the like, rows of H and those of a group beside each other; every head
// is multiplied by query_scale [T] where that is defined.
void turn(const at::Tensor& from, const at::Tensor& to, const Rotation& rotation,
          const at::Tensor& query_scale, Way way) {
  const cuda::Kernels* kernels = kernels_for({from});
  if (kernels == nullptr) return turn_by_loops(from, to, rotation, query_scale, way);
  const auto rows = [](const at::Tensor& heads) {
    return cuda::HeadRows{heads.data_ptr(), heads.stride(0), heads.stride(1)};
  };
  launch(*kernels, &cuda::Kernels::rope, "rope", from,
         cuda::Rope{.type = kernel_type(from.scalar_type()),
                    .tokens = from.size(0),
                    .groups = from.size(1),
                    .heads = from.size(2),
                    .head_dim = from.size(3),
                    .scaled_heads = query_scale.defined() ? from.size(2) : 0,
                    .from = rows(from),
                    .to = rows(to),
                    .cos = rotation.cos.const_data_ptr(),
                    .sin = rotation.sin.const_data_ptr(),
                    .query_scale = query_scale.defined() ? query_scale.const_data_ptr() : nullptr,
                    .backward = way == Way::kBackward});
}

at::Tensor turned(const at::Tensor& x, const Rotation& rotation, Way way) {
  at::Tensor y = at::empty_like(x);
  const std::array<int64_t, 4> shape{x.size(0), 1, x[0].numel() / x.size(-1), x.size(-1)};
  turn(x.view(shape), y.view(shape), rotation, {}, way);
  return y;
}

class Rotated : public torch::autograd::Function<Rotated> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    ctx->save_for_backward({cos, sin});
    return turned(x, {cos, sin}, Way::kForward);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    return {turned(beside_each_other(gradients[0]), {saved[0], saved[1]}, Way::kBackward), {}, {}};
  }
};

// Views of qkv_TGMH: all queries, all keys.
at::Tensor queries_of(const at::Tensor& qkv) { return qkv.narrow(2, 0, qkv.size(2) - 2); }
at::Tensor keys_of(const at::Tensor& qkv) { return qkv.narrow(2, qkv.size(2) - 2, 1); }
at::Tensor values_of(const at::Tensor& qkv) { return qkv.select(2, qkv.size(2) - 1); }

QueriesKeysValues parts_of(const at::Tensor& qkv, const Rotation& rotation,
                           const at::Tensor& query_scale) {
  const auto part = [&](const at::Tensor& heads, const at::Tensor& scale) {
    at::Tensor to = at::empty(heads.sizes(), heads.options());
    turn(heads, to, rotation, scale, Way::kForward);
    return to;
  };
  const at::Tensor v = values_of(qkv);
  return {part(queries_of(qkv), query_scale), part(keys_of(qkv), {}).squeeze(2),
          v.is_cpu() ? v.contiguous() : v};
}

// What asks for no gradient and may have no scale, which autograd takes in no other form.
struct Turn {
  Rotation rotation;
  at::Tensor query_scale;
};

class RotatedParts : public torch::autograd::Function<RotatedParts> {
 public:
  static variable_list forward(AutogradContext* ctx, const at::Tensor& qkv, const Turn& by) {
    ctx->save_for_backward({by.rotation.cos, by.rotation.sin, by.query_scale});
    const QueriesKeysValues parts = parts_of(qkv, by.rotation, by.query_scale);
    return {parts.q_TGNH, parts.k_TGH, parts.v_TGH.clone(at::MemoryFormat::Contiguous)};
  }
  // Into one tensor: of three views each gradient would be as large, and the three added.
  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    const variable_list saved = ctx->get_saved_variables();
    const Rotation rotation{saved[0], saved[1]};
    const at::Tensor dq = beside_each_other(gradients[0]), dk = beside_each_other(gradients[1]);
    const at::Tensor dqkv =
        at::empty({dq.size(0), dq.size(1), dq.size(2) + 2, dq.size(3)}, dq.options());
    turn(dq, queries_of(dqkv), rotation, saved[2], Way::kBackward);
    turn(dk.unsqueeze(2), keys_of(dqkv), rotation, {}, Way::kBackward);
    values_of(dqkv).copy_(gradients[2]);
    return {dqkv, {}};
  }
};

// By a kernel or the loops.
bool is_turned(const at::Tensor& x, const Rotation& rotation) {
  return x.size(0) != 0 && (kernels_for({x, rotation.cos, rotation.sin}) != nullptr ||
                            takes_row_loops({x, rotation.cos, rotation.sin}));
}

void require_rotation_of(const at::Tensor& x, const Rotation& rotation) {
  const std::array<int64_t, 2> shape{x.size(0), x.size(-1)};
  TORCH_CHECK(rotation.cos.sizes() == at::IntArrayRef(shape) && rotation.sin.sizes() == shape,
              "a rotation ", rotation.cos.sizes(), " is of heads ", x.sizes());
}

Rotation beside_each_other(const Rotation& rotation) {
  return {trestle::beside_each_other(rotation.cos), trestle::beside_each_other(rotation.sin)};
}

}  // namespace

at::Tensor rotate(const at::Tensor& x, const Rotation& rotation) {
  if (is_turned(x, rotation)) {
    require_rotation_of(x, rotation);
    const at::Tensor heads = beside_each_other(x);
    const auto [cos, sin] = beside_each_other(rotation);
    return asks_for_gradient({heads}) ? Rotated::apply(heads, cos, sin)
                                      : turned(heads, {cos, sin}, Way::kForward);
  }
  // [T, H] -> [T, 1, ..., H]
  std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
  shape.front() = rotation.cos.size(0);
  shape.back() = rotation.cos.size(1);
  const auto halves = x.chunk(2, -1);
  const at::Tensor other = at::cat({-halves[1], halves[0]}, -1);
  return x * rotation.cos.view(shape) + other * rotation.sin.view(shape);
}

QueriesKeysValues rotated_parts(const at::Tensor& qkv_TGMH, const Rotation& rotation,
                                const at::Tensor& query_scale) {
  if (!is_turned(qkv_TGMH, rotation)) {
    const int64_t N = qkv_TGMH.size(2) - 2;
    const at::Tensor qk = rotate(qkv_TGMH.narrow(2, 0, N + 1), rotation);
    at::Tensor q_TGNH = qk.narrow(2, 0, N);
    if (query_scale.defined()) q_TGNH = q_TGNH * query_scale;
    // Tensors of their own: attention keeps both, and as views they would keep what they are of.
    return {q_TGNH, qk.select(2, N).contiguous(), values_of(qkv_TGMH).contiguous()};
  }
  require_rotation_of(qkv_TGMH, rotation);
  at::Tensor scale;
  if (query_scale.defined()) {
    TORCH_CHECK(query_scale.numel() == qkv_TGMH.size(0) &&
                    query_scale.scalar_type() == qkv_TGMH.scalar_type(),
                "a scale ", query_scale.sizes(), " is of tokens ", qkv_TGMH.sizes());
    scale = beside_each_other(query_scale);
  }
  const at::Tensor qkv = beside_each_other(qkv_TGMH);
  const Rotation whole = beside_each_other(rotation);
  if (!asks_for_gradient({qkv})) return parts_of(qkv, whole, scale);
  const variable_list parts = RotatedParts::apply(qkv, Turn{whole, scale});
  return {parts[0], parts[1], parts[2]};
}

}  // namespace trestle
