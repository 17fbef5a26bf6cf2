// The model's text computes on the device that its weights are on. Shown without a card: on the
// meta device nothing can be read by the host and no two devices meet, and a watch over every
// operator finds tensors that are made on the CPU within a forward or a backward.
#include <ATen/ATen.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <gtest/gtest.h>
#include <torch/library.h>

#include <set>

#include "bridge/load_quantized.h"
#include "golden.h"

namespace trestle {
namespace {

using testing::Golden;

constexpr auto kWatched = c10::DispatchKey::TESTING_ONLY_GenericMode;
std::set<std::string>* made_on_cpu = nullptr;

bool is_tensor(const c10::IValue& value) { return value.isTensor() && value.toTensor().defined(); }

bool is_on_cpu(const c10::IValue& value) { return is_tensor(value) && value.toTensor().is_cpu(); }

// Between the caller and every operator, those included of which others are made; but not within
// one whose tensors are on the CPU: ids and labels lie there, and the places of pictures and
// targets are looked up there.
void watch(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const c10::DispatchKeySet below =
      keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, kWatched);
  const auto first = stack->end() - std::ssize(schema.arguments());
  const bool from_tensors = std::any_of(first, stack->end(), [](const c10::IValue& value) {
    return is_tensor(value) || (value.isTensorList() && !value.toTensorList().empty());
  });
  const bool from_cpu = std::any_of(first, stack->end(), is_on_cpu) &&
                        std::none_of(first, stack->end(), [](const c10::IValue& value) {
                          return is_tensor(value) && !is_on_cpu(value);
                        });
  if (from_cpu) {
    const c10::impl::ExcludeDispatchKeyGuard unwatched(kWatched);
    return op.redispatchBoxed(below, stack);
  }
  op.redispatchBoxed(below, stack);
  if (from_tensors || made_on_cpu == nullptr) return;
  if (std::any_of(stack->end() - std::ssize(schema.returns()), stack->end(), is_on_cpu)) {
    made_on_cpu->insert(schema.name());
  }
}

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&watch>());
}

// Of an operator whose meta kernel only Python has: the shapes that the CPU gives for zeros. All of
// its tensors are on the meta device but single numbers.
void by_shape(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard unwatched(kWatched);
  const auto& schema = op.schema();
  const auto first = stack->end() - std::ssize(schema.arguments());
  const std::vector<c10::IValue> given(first, stack->end());
  for (auto value = first; value != stack->end(); ++value) {
    if (!value->isTensor() || !value->toTensor().defined()) continue;
    const at::Tensor& tensor = value->toTensor();
    EXPECT_TRUE(tensor.is_meta() || tensor.dim() == 0) << schema.name() << " of two devices";
    *value = at::zeros(tensor.sizes(), tensor.options().device(at::kCPU));
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    c10::IValue& value =
        stack->end()[static_cast<std::ptrdiff_t>(i) - std::ssize(schema.returns())];
    if (!value.isTensor()) continue;
    const at::Tensor& made = value.toTensor();
    at::Tensor result =
        at::empty_strided(made.sizes(), made.strides(), made.options().device(at::kMeta));
    const auto* alias = schema.returns()[i].alias_info();
    for (size_t j = 0; alias != nullptr && j < given.size(); ++j) {
      const auto* theirs = schema.arguments()[j].alias_info();
      if (theirs == nullptr || theirs->beforeSets() != alias->beforeSets()) continue;
      result = given[j].toTensor();
      result.resize_(made.sizes());
    }
    value = std::move(result);
  }
}

TORCH_LIBRARY_IMPL(aten, Meta, library) {
  for (const char* name :
       {"index_select", "where.self", "where.self_out", "embedding_dense_backward"}) {
    library.impl(name, torch::CppFunction::makeFromBoxedFunction<&by_shape>());
  }
}

// What `action` makes on the CPU of nothing but sizes and numbers.
template <class Action>
std::set<std::string> made_on_cpu_by(const Action& action) {
  std::set<std::string> found;
  made_on_cpu = &found;
  {
    const c10::impl::IncludeDispatchKeyGuard guard(kWatched);
    action();
  }
  made_on_cpu = nullptr;
  return found;
}

TEST(DeviceWatch, SeesWhatIsMadeOnTheCpuWithinOtherOperators) {
  EXPECT_EQ(made_on_cpu_by([] { at::arange(3); }).count("aten::arange"), 1u);
  // Composite: it is made of others, one of which makes a tensor.
  EXPECT_FALSE(made_on_cpu_by([] { at::tensor({1, 2, 3}); }).empty());
  EXPECT_TRUE(
      made_on_cpu_by([] { at::arange(3, at::TensorOptions().device(at::kMeta)).add(1); }).empty());
}

// All projections of a model get pairs as training would give them, where the model is.
void adapt(Ministral3& model, bool dora) {
  for (const at::Tensor& parameter : model.parameters()) parameter.set_requires_grad(false);
  for (const auto& [name, linear] : projections(model)) {
    if (name == "language_model.output_layer.weight") continue;  // takes none
    const auto options = linear->weight.options().device(linear->device()).requires_grad(false);
    const AdapterSpec spec{.pairs = {{"", 2, 4.0}}, .dropout = 0.0, .dora = dora};
    auto adapter = std::make_shared<Adapter>(linear->weight.size(1), linear->weight.size(0),
                                             linear->layout(), spec, options);
    for (const at::Tensor& parameter : adapter->parameters()) parameter.set_requires_grad(true);
    linear->attach(std::move(adapter));
  }
}

// Behind the layer whose output is the picture's features.
bool is_unused(const Ministral3& model, const std::string& name) {
  const VisionTower* tower = model.vision_tower();
  for (size_t i = tower == nullptr ? 0 : tower->depth();
       tower != nullptr && i < tower->num_layers(); ++i) {
    if (name.starts_with(fmt::format("vision_tower.transformer.layers.{}.", i))) return true;
  }
  return false;
}

struct Form {
  const char* name;
  int64_t bits;
  bool dora;
};

class OnDevice : public ::testing::TestWithParam<Form> {};

// Sequences of unequal lengths in one pack, a picture's tokens in several of them.
TEST_P(OnDevice, APackedStepWithPicturesStaysThere) {
  const auto& [name, bits, dora] = GetParam();
  const Golden golden(name);
  Ministral3 model(OpenCheckpoint(golden.directory).config(), {at::kFloat, at::kMeta, bits});
  adapt(model, dora);
  const at::Tensor ids_T = golden["input_ids"].flatten().clone();
  const int64_t T = ids_T.size(0), first = T / 3 + 1;
  const ModelInput input = ModelInput::make(ids_T, {first, T - first - 2, 2}, golden.images());
  const at::Tensor labels_T = golden.shifted_labels();
  at::Tensor loss;
  const auto made = made_on_cpu_by([&] {
    loss = model.loss_sum(input, labels_T).first;
    loss.backward();
  });
  EXPECT_EQ(made, std::set<std::string>());
  EXPECT_TRUE(loss.is_meta());
  int64_t trained = 0;
  for (const auto& entry : model.named_parameters()) {
    if (!entry.value().requires_grad() || is_unused(model, entry.key())) continue;
    ++trained;
    ASSERT_TRUE(entry.value().grad().defined()) << entry.key();
    EXPECT_TRUE(entry.value().grad().is_meta()) << entry.key();
  }
  EXPECT_GT(trained, 20);
}

INSTANTIATE_TEST_SUITE_P(Forms, OnDevice,
                         ::testing::Values(Form{"tied", 16, false}, Form{"untied", 16, false},
                                           Form{"mistral", 16, true}, Form{"tied", 4, false},
                                           Form{"untied", 8, true}, Form{"text", 16, false}),
                         [](const auto& info) {
                           return fmt::format("{}_{}{}", info.param.name, info.param.bits,
                                              info.param.dora ? "_dora" : "");
                         });

TEST(OnDevice, TheDecoderFollowsTheCache) {
  const Golden golden("tied");
  const OpenCheckpoint checkpoint(golden.directory);
  const Build build{at::kFloat, at::kMeta};
  const Ministral3 model(checkpoint.config(), build);
  const ModelInput input = golden.input();
  KvCache cache(checkpoint.config().text, input.packing.sequences(), input.packing.longest() + 2,
                build);
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(model.hidden(input, &cache).is_meta());
  const int64_t B = input.packing.sequences();
  const ModelInput next{at::zeros({B}, at::kLong),
                        at::full({B}, 5, at::kLong),
                        Packing(std::vector<int64_t>(static_cast<size_t>(B), 1)),
                        {}};
  EXPECT_TRUE(model.logits(next, &cache).is_meta());
}

}  // namespace
}  // namespace trestle
