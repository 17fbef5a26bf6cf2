#include "data/datasets_parquet.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <vector>

#include "base/error.h"
#include "chat/exchange.h"
#include "data/cord.h"
#include "data/parquet_rows.h"

namespace trestle {
namespace fs = std::filesystem;

namespace {

using Files = std::vector<fs::path>;

Part picture_part(std::optional<std::string_view> bytes, const std::string& name) {
  if (!bytes) user_error("{} has no image", name);
  Part part{.kind = Part::Kind::kImage};
  part.image.source = name;
  part.image.bytes = std::make_shared<const std::string>(*bytes);
  return part;
}

std::string text_cell(const ParquetFile& file, size_t column, int64_t row, const char* what,
                      const std::string& name) {
  const auto text = file.bytes(column, row);
  if (!text) user_error("{} has no {}", name, what);
  return std::string(*text);
}

class CordDataset : public Dataset {
 public:
  explicit CordDataset(const Files& files) : rows_(files, {"image.bytes", "ground_truth"}) {
    rows_.require_nothing_lost();
  }

  int64_t size() const override { return rows_.size(); }
  std::vector<fs::path> files() const override { return rows_.files(); }
  std::map<std::string, int64_t> unknown_columns() const override {
    return rows_.unknown_columns();
  }

  Conversation row(int64_t index) const override {
    return rows_.at(index, [](const ParquetFile& file, int64_t row, const std::string& name) {
      return exchange({picture_part(file.bytes(0, row), name)}, kDescribe,
                      json_to_tags(parse_truth(file, row, name)));
    });
  }
  Json ground_truth(int64_t index) const override { return rows_.at(index, parse_truth); }

 private:
  static Json parse_truth(const ParquetFile& file, int64_t row, const std::string& name) {
    const auto text = file.bytes(1, row);
    const Json truth = text ? parse_json(*text, name) : Json();
    if (!truth.is_object() || !truth.contains("gt_parse") || !truth["gt_parse"].is_object()) {
      user_error("{}: ground_truth has no gt_parse object", name);
    }
    return truth["gt_parse"];
  }

  ParquetRows rows_;
};

class MedpixDataset : public Dataset {
 public:
  explicit MedpixDataset(const Files& files)
      : rows_(files, {"image_id.bytes", "question", "answer"}) {
    rows_.require_nothing_lost();
  }

  int64_t size() const override { return rows_.size(); }
  std::vector<fs::path> files() const override { return rows_.files(); }
  std::map<std::string, int64_t> unknown_columns() const override {
    return rows_.unknown_columns();
  }

  Conversation row(int64_t index) const override {
    return rows_.at(index, [](const ParquetFile& file, int64_t row, const std::string& name) {
      return exchange({picture_part(file.bytes(0, row), name)},
                      text_cell(file, 1, row, "question", name),
                      text_cell(file, 2, row, "answer", name));
    });
  }
  Json ground_truth(int64_t index) const override {
    return rows_.at(index, [](const ParquetFile& file, int64_t row, const std::string& name) {
      return Json(text_cell(file, 2, row, "answer", name));
    });
  }

 private:
  ParquetRows rows_;
};

class RavenDataset : public Dataset {
 public:
  explicit RavenDataset(const Files& files)
      : rows_(files, {"images[].bytes", "texts[].user", "texts[].assistant"}) {
    rows_.require_nothing_lost();
    // Without the pictures' bytes: they are most of the file.
    const ParquetRows small(files, {"images[].path", "texts[].user"});
    for (int64_t row = 0; row < small.size(); ++row) {
      const bool whole = small.at(row, [](const ParquetFile& file, int64_t at, const std::string&) {
        return !file.list(0, at).empty() && !file.list(1, at).empty();
      });
      if (whole) used_.push_back(row);
    }
    if (used_.empty()) {
      user_error("{}{}: none of the {} rows has both pictures and a text", files.front().string(),
                 files.size() > 1 ? fmt::format(" and {} more", files.size() - 1) : "",
                 small.size());
    }
  }

  int64_t size() const override { return static_cast<int64_t>(used_.size()); }
  std::vector<fs::path> files() const override { return rows_.files(); }
  std::map<std::string, int64_t> unknown_columns() const override {
    return rows_.unknown_columns();
  }

  Conversation row(int64_t index) const override {
    return rows_.at(place(index), [](const ParquetFile& file, int64_t row,
                                     const std::string& name) {
      std::vector<Part> pictures;
      for (const auto& bytes : file.list(0, row)) {
        pictures.push_back(picture_part(bytes, fmt::format("{} image {}", name, pictures.size())));
      }
      Conversation conversation;
      for (size_t turn = 0; turn < file.list(1, row).size(); ++turn) {
        Conversation each = exchange(std::move(pictures), text(file, 1, row, turn, "user", name),
                                     text(file, 2, row, turn, "assistant", name));
        pictures.clear();
        std::ranges::move(each.messages, std::back_inserter(conversation.messages));
      }
      return conversation;
    });
  }
  // Of the last turn, which is what evaluation asks for.
  Json ground_truth(int64_t index) const override {
    return rows_.at(place(index),
                    [](const ParquetFile& file, int64_t row, const std::string& name) {
                      const size_t turns = file.list(2, row).size();
                      return Json(text(file, 2, row, turns - 1, "assistant", name));
                    });
  }

 private:
  int64_t place(int64_t index) const { return used_.at(static_cast<size_t>(index)); }

  static std::string text(const ParquetFile& file, size_t column, int64_t row, size_t turn,
                          const char* what, const std::string& name) {
    const auto items = file.list(column, row);
    if (turn >= items.size() || !items[turn]) {
      user_error("{}: its text {} has no {}", name, turn, what);
    }
    return std::string(*items[turn]);
  }

  ParquetRows rows_;
  std::vector<int64_t> used_;
};

}  // namespace

std::unique_ptr<Dataset> make_cord_v2_dataset(const Files& files) {
  return std::make_unique<CordDataset>(files);
}

std::unique_ptr<Dataset> make_medpix_dataset(const Files& files) {
  return std::make_unique<MedpixDataset>(files);
}

std::unique_ptr<Dataset> make_raven_dataset(const Files& files) {
  return std::make_unique<RavenDataset>(files);
}

}  // namespace trestle
