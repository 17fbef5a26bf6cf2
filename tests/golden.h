// Reading of goldens (tools/make_goldens.py) and comparing with them; shared by the tests of
// several stages.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "bridge/load.h"
#include "formats/safetensors.h"
#include "model/ministral3.h"

namespace trestle::testing {

/// The other models of the family, less of each (tools/goldens/kin.py); they have logits, losses
/// and greedy tokens, but no stages and no gradients.
inline constexpr std::array kKin = {"kin/medium_3_5", "kin/shieldstral", "kin/devstral_small_2",
                                    "kin/devstral_2", "kin/small_3",     "kin/ernie_image_pe"};

/// The name of a golden as one of a test, whose names have letters, digits and _ only.
inline std::string test_name(const ::testing::TestParamInfo<const char*>& info) {
  std::string name = info.param;
  std::ranges::replace(name, '/', '_');
  return name;
}

/// Where the models of goldens are, and of runs: what TRESTLE_TEST_DEVICE names, else the CPU.
inline at::Device test_device() {
  const char* name = std::getenv("TRESTLE_TEST_DEVICE");
  return name == nullptr ? at::Device(at::kCPU) : at::Device(std::string(name));
}

struct Golden {
  explicit Golden(const std::string& name, const std::string& file = "golden.safetensors")
      : directory("golden/" + name), tensors(directory + "/" + file) {}

  at::Tensor operator[](const std::string& name) const { return tensors.read(name); }
  bool has(const std::string& name) const { return tensors.tensors().contains(name); }

  std::vector<at::Tensor> images(const std::string& prefix = "") const {
    std::vector<at::Tensor> images;
    if (!has(prefix + "pixel_values")) return images;
    const at::Tensor pixels = (*this)[prefix + "pixel_values"];
    const at::Tensor sizes = (*this)[prefix + "image_sizes"];
    for (int64_t i = 0; i < pixels.size(0); ++i) {
      images.push_back(pixels[i]
                           .narrow(1, 0, sizes[i][0].item<int64_t>())
                           .narrow(2, 0, sizes[i][1].item<int64_t>())
                           .contiguous());
    }
    return images;
  }

  /// The whole [B, S] batch, every sequence of full length.
  ModelInput input() const {
    const at::Tensor ids = (*this)["input_ids"];
    const std::vector<int64_t> lengths(static_cast<size_t>(ids.size(0)), ids.size(1));
    return ModelInput::make(ids.flatten().clone(), lengths, images());
  }

  /// Labels as the loss takes them: shifted, the last of each sequence without a target.
  at::Tensor shifted_labels() const {
    const at::Tensor labels = (*this)["labels"];
    return at::cat({labels.narrow(1, 1, labels.size(1) - 1),
                    at::full({labels.size(0), 1}, -100, at::kLong)},
                   1)
        .flatten();
  }

  std::shared_ptr<Ministral3> model(at::ScalarType dtype = at::kFloat) const {
    return load_model(OpenCheckpoint(directory), {dtype, test_device()});
  }

  std::string directory;
  SafetensorsFile tensors;
};

inline void expect_near(const at::Tensor& got, const at::Tensor& wanted, double absolute,
                        const std::string& what) {
  ASSERT_EQ(got.numel(), wanted.numel()) << what;
  const double error =
      (got.flatten().to(at::kCPU, at::kDouble) - wanted.flatten().to(at::kCPU, at::kDouble))
          .abs()
          .max()
          .item<double>();
  EXPECT_LE(error, absolute) << what;
}

/// max |got - wanted| / max |wanted|.
inline double relative_error(const at::Tensor& got, const at::Tensor& wanted) {
  const at::Tensor w = wanted.flatten().to(at::kCPU, at::kDouble);
  return ((got.flatten().to(at::kCPU, at::kDouble) - w).abs().max() / w.abs().max()).item<double>();
}

}  // namespace trestle::testing
