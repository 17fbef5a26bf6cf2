// A sample as bytes, for another rank. Called by global_batch.
#pragma once

#include <ATen/core/Tensor.h>

#include "data/processor.h"

namespace trestle {

/// Of bytes_of_sample(): uint8 [n].
int64_t size_in_bytes(const Sample& sample);
at::Tensor bytes_of_sample(const Sample& sample);
/// `bytes` are another rank's bytes_of_sample.
Sample sample_of_bytes(const at::Tensor& bytes);

}  // namespace trestle
