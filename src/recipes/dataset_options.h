// Keys `dataset.`: what a run learns from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "base/fields.h"
#include "recipes/bounds.h"
#include "recipes/data_source.h"

namespace trestle {

struct DatasetOptions {
  std::string maker_name = "make_cord_v2_dataset";
  std::string path_or_dataset;
  std::vector<BlendSource> blend;
  std::string subset;
  std::string split = "train";
  bool shuffle = true;
  std::optional<int64_t> num_workers;
  bool pack_sequences_in_batch = false;
  std::string overlong = "error";
  int64_t image_max_edge = 0;
  int64_t image_max_tokens = 0;
  std::string feature_cache;
  int64_t feature_cache_mb = 512;
  static constexpr auto fields() {
    return std::tuple(
        field("maker_name", &DatasetOptions::maker_name, OnResume::kSame),
        field("path_or_dataset", &DatasetOptions::path_or_dataset, OnResume::kSameContent,
              "file or directory, or ORG/NAME[@REVISION] on the Hub; default: the one that the "
              "maker is for"),
        field("blend", &DatasetOptions::blend, OnResume::kSameContent,
              "several data sets, each by its weight, instead of path_or_dataset: "
              "[{path: A, weight: 0.7, maker_name: jsonl}, {path: B, weight: 0.3, split: train, "
              "subset: S}]"),
        field("subset", &DatasetOptions::subset, OnResume::kFree,
              "of a data set on the Hub; default: its own default, raven of make_raven_dataset"),
        field("split", &DatasetOptions::split, OnResume::kSame),
        field("shuffle", &DatasetOptions::shuffle, OnResume::kSame,
              "false: rows in order, wrapping around"),
        field("num_workers", &DatasetOptions::num_workers, OnResume::kFree, between(0, 256),
              "threads that read and prepare samples ahead; default: on a card one a core, 8 at "
              "most, but one core less; on the CPU none, as a step takes every core"),
        field("pack_sequences_in_batch", &DatasetOptions::pack_sequences_in_batch, OnResume::kSame,
              "a forward takes as many samples of the global batch as fit into "
              "train.micro_batch_size times model.seq_length tokens"),
        field("overlong", &DatasetOptions::overlong, OnResume::kSame,
              OneOf("error", "drop", "shrink-image", "cut-text"),
              "samples over model.seq_length: error, drop, shrink-image or cut-text"),
        field("image_max_edge", &DatasetOptions::image_max_edge, OnResume::kSame, kMaxEdgeRange,
              "pixels of a picture's longest side at most; 0: the checkpoint's own limit"),
        field("image_max_tokens", &DatasetOptions::image_max_tokens, OnResume::kSame,
              kMaxTokensRange, "tokens of a picture at most; 0: no limit of its own"),
        field("feature_cache", &DatasetOptions::feature_cache, OnResume::kFree,
              "directory where features of pictures are kept for later runs, while vision tower "
              "and projector are frozen"),
        field("feature_cache_mb", &DatasetOptions::feature_cache_mb, OnResume::kFree,
              between(0, 1 << 20), "MiB of such features that a run keeps in memory; 0: none"));
  }
};

}  // namespace trestle
