// What the tests of files share: a directory that vanishes, variants of the Hugging Face fixtures
// in it, and the one line of an error.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/safetensors.h"

namespace trestle::testing {

namespace fs = std::filesystem;

/// Relative to tests/, the working directory of the tests.
inline const fs::path kUntied = "fixtures/hf";
inline const fs::path kTied = "fixtures/hf_tied";

class TempDir {
 public:
  TempDir() {
    std::string pattern = (fs::path(::testing::TempDir()) / "trestle-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempDir() { fs::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  fs::path operator/(const fs::path& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// The message of the `Error` that `action` throws; a failed test where it throws none. It must be
/// one line.
template <class Error = UserError>
std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    return message;
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

#define EXPECT_REFUSED(action, part)                                                     \
  EXPECT_NE(::trestle::testing::error_of([&] { action; }).find(part), std::string::npos) \
      << ::trestle::testing::error_of([&] { action; })

inline void expect_mentions(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' in: " << message;
  }
}

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         (a.numel() == 0 || std::memcmp(a.contiguous().const_data_ptr(),
                                        b.contiguous().const_data_ptr(), a.nbytes()) == 0);
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

/// Copies a fixture to `target`, its tensors and config passed through `edit`.
inline void write_variant(const fs::path& source, const fs::path& target,
                          const std::function<void(NamedTensors&, Json&)>& edit) {
  NamedTensors tensors = read_safetensors(source / "model.safetensors");
  Json config = read_json(source / "config.json");
  edit(tensors, config);
  fs::create_directories(target);
  write_json(target / "config.json", config);
  write_safetensors(target / "model.safetensors", tensors);
}

}  // namespace trestle::testing
