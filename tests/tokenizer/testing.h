// What the tokenizer and chat tests share: golden files, the real vocabulary.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"

namespace trestle::testing {

/// Relative to tests/, the working directory of the tests.
inline const std::filesystem::path kTokenizerGolden = "tokenizer/golden";
/// A checkpoint whose tokenizer.json has the 256 bytes and 14 special tokens.
inline const std::filesystem::path kBytesCheckpoint = "fixtures/hf";

inline std::vector<Json> golden_lines(const char* name) {
  std::istringstream lines(read_text(kTokenizerGolden / name));
  std::vector<Json> rows;
  for (std::string line; std::getline(lines, line);) rows.push_back(parse_json(line, name));
  EXPECT_GT(rows.size(), 10u) << name << " tells too little to compare with";
  return rows;
}

/// "1 2 3" -> ids.
inline std::vector<int64_t> golden_ids(const Json& text) {
  std::istringstream words(text.get<std::string>());
  std::vector<int64_t> ids;
  for (int64_t id = 0; words >> id;) ids.push_back(id);
  return ids;
}

/// The 131,072 ids of Ministral 3, in the mistral-common wheel that the set-up installs;
/// TRESTLE_TEKKEN names another place. A missing file fails the test.
inline std::filesystem::path real_vocabulary() {
  namespace fs = std::filesystem;
  if (const char* path = std::getenv("TRESTLE_TEKKEN")) return path;
  const fs::path lib = "../.venv/lib";
  for (const auto& python : fs::directory_iterator(lib)) {
    const fs::path file = python.path() / "site-packages/mistral_common/data/tekken_240911.json";
    if (fs::exists(file)) return file;
  }
  throw std::runtime_error("no tekken_240911.json under " + lib.string() + "; run tools/setup.sh");
}

}  // namespace trestle::testing
