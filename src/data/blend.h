// Several data sets learnt from at once, each by its weight. Called by the sample stream and the
// trainer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/batch.h"
#include "data/datasets.h"

namespace trestle {

/// Where weights or sets began to count that a run did not have before.
struct BlendStart {
  /// The first sample that is chosen by them.
  int64_t sample = 0;
  /// How many samples before it, from the run's first on, each set gave, behind which it goes on;
  /// empty: none, as in a run that begins or one whose sets are new.
  std::vector<int64_t> taken = {};
  /// The n of each set, whose rows come in the order of that n wherever the set stands now; empty:
  /// 0, 1, 2 ...
  std::vector<int64_t> numbers = {};
};

/// Which row is the n-th sample of a run on several sets whose rows stand one behind the other, for
/// every n: the set by the weights as megatron-core 0.19.2 interleaves them
/// (build_blending_indices: the one that is furthest behind its weight, the first of equals), the
/// row by the set's own SampleOrder. A set that is used up begins anew, in another order. With one
/// part it is SampleOrder.
class BlendOrder {
 public:
  /// `parts` are of one weight at least, all above 0. The n-th of them draws from `seed` and n.
  /// Samples before start.sample are not asked for.
  BlendOrder(const std::vector<BlendPart>& parts, uint64_t seed, bool shuffle,
             BlendStart start = {});
  /// Takes as long as samples lie between this one and the one that was asked for before.
  int64_t row(int64_t sample);
  /// How many of the first `samples` are of each part, those that `start` speaks of among them.
  std::vector<int64_t> counts(int64_t samples);
  /// So many samples take each row once at least.
  int64_t samples_for_all() const;

 private:
  size_t next_part() const;
  void go_to(int64_t sample);
  int64_t taken_of(size_t part) const { return start_.taken.empty() ? 0 : start_.taken[part]; }

  std::vector<BlendPart> parts_;
  std::vector<double> shares_;
  BlendStart start_;
  std::vector<int64_t> first_;  // row of each part
  std::vector<SampleOrder> orders_;
  int64_t drawn_ = 0;
  std::vector<int64_t> counts_;  // of the samples from the start to drawn_
};

/// The parts' weights as shares of their sum.
std::vector<double> shares_of(const std::vector<BlendPart>& parts);

/// A set to blend, and by which maker it is read.
struct BlendMember {
  std::string maker;
  DataName name;
  /// All of them have one, or none: then each weighs as many as it has rows.
  std::optional<double> weight = {};
};

class BlendedDataset : public Dataset {
 public:
  /// Throws UserError as make_dataset does, and for a set without rows.
  explicit BlendedDataset(const std::vector<BlendMember>& members);

  int64_t size() const override { return size_; }
  std::vector<std::filesystem::path> files() const override;
  Conversation row(int64_t index) const override;
  Json ground_truth(int64_t index) const override;
  std::map<std::string, int64_t> unknown_columns() const override;
  std::string row_name(int64_t index, const std::string& name) const override;
  std::vector<BlendPart> parts() const override { return parts_; }

  struct Source {
    BlendMember member;
    std::unique_ptr<Dataset> dataset;
    /// What it is, wherever it lies: its maker and content_without_names of its files.
    std::string identity;
    /// With content_of, as checkpoints of before December 2026 have it: the files are read once
    /// more where one is gone on from, and not by runs that begin.
    const std::string& named_identity() const;

    mutable std::optional<std::string> named = {};
  };
  const std::vector<Source>& sources() const { return sources_; }
  /// Of each set, which are as many.
  void set_weights(const std::vector<double>& weights);
  /// The n-th set becomes the order[n]-th of those before.
  void reorder(const std::vector<size_t>& order);
  /// A line each: its share, its rows and files, and how many of a run's samples, those behind it
  /// among them, are of it; and one of samples of other sets, or of a set that was away since.
  std::vector<std::string> describe(int64_t samples, const BlendStart& start = {}) const;

 private:
  struct Place {
    const Source* source;
    int64_t row;
  };
  Place place_of(int64_t index) const;

  std::vector<Source> sources_;
  std::vector<BlendPart> parts_;
  int64_t size_ = 0;
};

}  // namespace trestle
