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

std::string text_cell(const ParquetRow& row, size_t column, const char* what,
                      const std::string& name) {
  const auto text = row.bytes(column);
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
    return rows_.at(index, [](const ParquetRow& row, const std::string& name) {
      return exchange({picture_part(row.bytes(0), name)}, kDescribe,
                      json_to_tags(parse_truth(row, name)));
    });
  }
  Json ground_truth(int64_t index) const override { return rows_.at(index, parse_truth); }

 private:
  static Json parse_truth(const ParquetRow& row, const std::string& name) {
    const auto text = row.bytes(1);
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
    return rows_.at(index, [](const ParquetRow& row, const std::string& name) {
      return exchange({picture_part(row.bytes(0), name)}, text_cell(row, 1, "question", name),
                      text_cell(row, 2, "answer", name));
    });
  }
  Json ground_truth(int64_t index) const override {
    return rows_.at(index, [](const ParquetRow& row, const std::string& name) {
      return Json(text_cell(row, 2, "answer", name));
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
      const bool whole = small.at(row, [](const ParquetRow& each, const std::string&) {
        return !each.list(0).empty() && !each.list(1).empty();
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
    return rows_.at(place(index), [](const ParquetRow& row, const std::string& name) {
      std::vector<Part> pictures;
      for (const auto& bytes : row.list(0)) {
        pictures.push_back(picture_part(bytes, fmt::format("{} image {}", name, pictures.size())));
      }
      Conversation conversation;
      for (size_t turn = 0; turn < row.list(1).size(); ++turn) {
        Conversation each = exchange(std::move(pictures), text(row, 1, turn, "user", name),
                                     text(row, 2, turn, "assistant", name));
        pictures.clear();
        std::ranges::move(each.messages, std::back_inserter(conversation.messages));
      }
      return conversation;
    });
  }
  // Of the last turn, which is what evaluation asks for.
  Json ground_truth(int64_t index) const override {
    return rows_.at(place(index), [](const ParquetRow& row, const std::string& name) {
      const size_t turns = row.list(2).size();
      return Json(text(row, 2, turns - 1, "assistant", name));
    });
  }

 private:
  int64_t place(int64_t index) const { return used_.at(static_cast<size_t>(index)); }

  static std::string text(const ParquetRow& row, size_t column, size_t turn, const char* what,
                          const std::string& name) {
    const auto items = row.list(column);
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
