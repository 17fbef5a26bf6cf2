#include "model/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <algorithm>
#include <mutex>

namespace trestle {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Generator generator_of(const at::Tensor& x) {
  return at::globalContext().defaultGenerator(x.device());
}

at::Tensor random_state(at::Generator generator) {
  const std::lock_guard lock(generator.mutex());
  return generator.get_state();
}

void set_random_state(at::Generator generator, const at::Tensor& state) {
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
}

// As it was in the forward pass, and back at the end of the scope.
class RandomStateOfForward {
 public:
  RandomStateOfForward(at::Generator generator, const at::Tensor& forward)
      : generator_(std::move(generator)), before_(random_state(generator_)) {
    set_random_state(generator_, forward);
  }
  ~RandomStateOfForward() { set_random_state(generator_, before_); }
  RandomStateOfForward(const RandomStateOfForward&) = delete;
  RandomStateOfForward& operator=(const RandomStateOfForward&) = delete;

 private:
  at::Generator generator_;
  at::Tensor before_;
};

// What an AutogradContext can hold.
struct SegmentHolder : torch::CustomClassHolder {
  explicit SegmentHolder(Segment value) : segment(std::move(value)) {}
  Segment segment;
};

class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  // The parameters are inputs, so that the result asks for gradients where x does not: the first
  // layer above a frozen embedding.
  static at::Tensor forward(AutogradContext* ctx, const Segment& segment, const at::Tensor& x,
                            at::TensorList parameters) {
    ctx->saved_data["segment"] =
        c10::IValue::make_capsule(c10::make_intrusive<SegmentHolder>(segment));
    ctx->saved_data["random_state"] = random_state(generator_of(x));
    variable_list saved = parameters.vec();
    saved.push_back(x);
    ctx->save_for_backward(saved);
    return segment(x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& gradients) {
    variable_list leaves = ctx->get_saved_variables();  // parameters, then x
    const auto parameters = std::ssize(leaves) - 1;
    const at::Tensor kept = leaves.back();
    const at::Tensor x = kept.detach().requires_grad_(kept.requires_grad());
    leaves.back() = x;
    const auto holder =
        c10::static_intrusive_pointer_cast<SegmentHolder>(ctx->saved_data["segment"].toCapsule());
    at::Tensor y;
    {
      const at::AutoGradMode graph(true);
      const RandomStateOfForward random(generator_of(x),
                                        ctx->saved_data["random_state"].toTensor());
      y = holder->segment(x);
    }
    if (!x.requires_grad()) leaves.pop_back();
    const variable_list found =
        torch::autograd::grad({y}, leaves, {gradients[0]}, /*retain_graph=*/std::nullopt,
                              /*create_graph=*/false, /*allow_unused=*/true);
    variable_list result = {at::Tensor(), x.requires_grad() ? found.back() : at::Tensor()};
    result.insert(result.end(), found.begin(), found.begin() + parameters);
    return result;
  }
};

}  // namespace

at::Tensor recomputed(const Segment& segment, const at::Tensor& x,
                      const std::vector<at::Tensor>& parameters) {
  if (!at::GradMode::is_enabled()) return segment(x);
  variable_list trained;
  std::ranges::copy_if(parameters, std::back_inserter(trained),
                       [](const at::Tensor& parameter) { return parameter.requires_grad(); });
  if (trained.empty() && !x.requires_grad()) return segment(x);
  return Recomputed::apply(segment, x, at::TensorList(trained));
}

std::vector<int64_t> backward_visits(int64_t first, int64_t last, const Recompute& recompute) {
  const bool together = recompute.granularity == Recompute::Granularity::kFull &&
                        recompute.method == Recompute::Method::kUniform;
  const int64_t count = together ? recompute.num_layers : 1;
  std::vector<int64_t> visits;
  for (int64_t groups = (last - first + count - 1) / count; groups > 0; --groups) {
    const int64_t start = first + (groups - 1) * count, end = std::min(start + count, last);
    for (int64_t layer = start; layer < end; ++layer) visits.push_back(layer);
    for (int64_t layer = end - 1; layer >= start; --layer) visits.push_back(layer);
  }
  return visits;
}

at::Tensor run_layers(const LayerStack& stack, at::Tensor x, size_t first, size_t last,
                      const Recompute& recompute) {
  const bool full = recompute.granularity == Recompute::Granularity::kFull;
  const bool uniform = recompute.method == Recompute::Method::kUniform;
  const auto count = static_cast<size_t>(recompute.num_layers);
  for (size_t start = first, end = first; start < last; start = end) {
    end = full && uniform ? std::min(start + count, last) : start + 1;
    const Segment segment = [stack, start, end](at::Tensor y) {
      for (size_t layer = start; layer < end; ++layer) y = stack.forward(y, layer);
      return y;
    };
    if (!full || (!uniform && start >= first + count)) {
      x = segment(x);
      continue;
    }
    variable_list parameters;
    for (size_t layer = start; layer < end; ++layer) {
      const variable_list some = stack.parameters(layer);
      parameters.insert(parameters.end(), some.begin(), some.end());
    }
    x = recomputed(segment, x, parameters);
  }
  return x;
}

}  // namespace trestle
