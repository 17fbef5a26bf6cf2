// Models and prompts that the tests of decoding share.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <vector>

#include "generate/generator.h"
#include "golden.h"

namespace trestle::testing {

inline std::shared_ptr<Ministral3> eval_model(const Golden& golden,
                                              at::ScalarType dtype = at::kFloat) {
  auto model = golden.model(dtype);
  model->eval();
  return model;
}

inline std::vector<int64_t> to_vector(const at::Tensor& ids) {
  const at::Tensor flat = ids.flatten().contiguous();
  return {flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel()};
}

/// The prompt of the golden's "greedy.tokens".
inline Sample greedy_prompt(const Golden& golden) {
  return {to_vector(golden["greedy.input_ids"]), {}, golden.images("greedy.")};
}

/// `length` ids of which none stands for an image.
inline Sample text_prompt(int64_t length, int64_t seed) {
  at::manual_seed(static_cast<uint64_t>(seed));
  return {to_vector(at::randint(14, 160, {length}, at::kLong)), {}, {}};
}

}  // namespace trestle::testing
