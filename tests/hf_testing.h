// What the tests of files share: tensors bit for bit, and variants of the Hugging Face fixtures.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "errors.h"
#include "formats/safetensors.h"
#include "temp_dir.h"

namespace trestle::testing {

namespace fs = std::filesystem;

/// Relative to tests/, the working directory of the tests.
inline const fs::path kUntied = "fixtures/hf";
inline const fs::path kTied = "fixtures/hf_tied";

/// Same type, shape and bytes.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.numel() == 0 || std::memcmp(a.contiguous().const_data_ptr(),
                                        b.contiguous().const_data_ptr(), a.nbytes()) == 0);
}

/// That two sources hold the same tensors, bit for bit.
inline void expect_equal(const TensorSource& got, const TensorSource& wanted) {
  ASSERT_EQ(got.tensors(), wanted.tensors());
  for (const auto& [name, info] : wanted.tensors()) {
    EXPECT_TRUE(same_bits(got.read(name), wanted.read(name))) << name;
  }
}

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

inline TensorList list_of(const NamedTensors& tensors) {
  TensorList list;
  for (const auto& [name, tensor] : tensors) list.emplace_back(name, info_of(tensor));
  return list;
}

inline void write_safetensors(const fs::path& path, const NamedTensors& tensors) {
  SafetensorsWriter writer(path, list_of(tensors));
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.commit();
}

/// Every tensor of a file, by the name it has there.
inline NamedTensors read_safetensors(const fs::path& path) {
  const SafetensorsFile file(path);
  NamedTensors tensors;
  for (const auto& [name, info] : file.tensors()) tensors.emplace_back(name, file.read(name));
  return tensors;
}

/// Copies a fixture's two files to `target`, their tensors and config passed through `edit`.
inline void write_variant(const fs::path& source, const fs::path& target,
                          const std::function<void(NamedTensors&, Json&)>& edit,
                          const char* weights = "model.safetensors",
                          const char* config = "config.json") {
  NamedTensors tensors = read_safetensors(source / weights);
  Json json = read_json(source / config);
  edit(tensors, json);
  fs::create_directories(target);
  write_json(target / config, json);
  write_safetensors(target / weights, tensors);
}

}  // namespace trestle::testing
