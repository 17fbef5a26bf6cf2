#include "megatron/shard.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "formats/safetensors.h"

namespace trestle {

namespace {

using Sizes = std::vector<int64_t>;

int64_t volume(const Sizes& sizes, size_t from = 0) {
  return std::accumulate(sizes.begin() + static_cast<std::ptrdiff_t>(from), sizes.end(), int64_t{1},
                         std::multiplies<>());
}

// Adds elements [first, last) of a box of `sizes` in which the axes before `axis` are fixed at
// `offset`.
void add_run(const Sizes& sizes, size_t axis, Sizes offset, int64_t first, int64_t last,
             std::vector<TensorBox>& out) {
  if (first == last) return;
  const auto add = [&](int64_t from, int64_t count) {
    TensorBox box{offset, Sizes(sizes.size(), 1)};
    if (axis < sizes.size()) {
      box.offset[axis] = from;
      box.size[axis] = count;
      std::copy(sizes.begin() + static_cast<std::ptrdiff_t>(axis) + 1, sizes.end(),
                box.size.begin() + static_cast<std::ptrdiff_t>(axis) + 1);
    }
    out.push_back(std::move(box));
  };
  if (axis >= sizes.size()) return add(0, 1);
  const int64_t row = volume(sizes, axis + 1);
  const auto within = [&](int64_t index, int64_t from, int64_t to) {
    Sizes inner = offset;
    inner[axis] = index;
    add_run(sizes, axis + 1, std::move(inner), from, to, out);
  };
  int64_t begin = first / row;
  const int64_t end = last / row;
  if (begin == end) return within(begin, first % row, last % row);
  if (first % row != 0) {
    within(begin, first % row, row);
    ++begin;
  }
  if (begin < end) add(begin, end - begin);
  if (last % row != 0) within(end, 0, last % row);
}

TensorBox whole_box(const Sizes& shape) { return {Sizes(shape.size(), 0), shape}; }

// Rows or columns of a tensor of `shape`.
TensorBox along(const Sizes& shape, size_t axis, int64_t first, int64_t count) {
  TensorBox box = whole_box(shape);
  box.offset.at(axis) = first;
  box.size.at(axis) = count;
  return box;
}

// Of what tensor ranks hold whole, where Megatron Bridge's adapters are cut by rows all the same:
// linear_in under a column-parallel base, linear_out under a row-parallel one.
bool is_cut_in_files(const HeldTensor& held, int64_t ranks) {
  const std::string& name = held.shard.name;
  const Sizes& shape = held.shard.whole.shape;
  const bool whole = held.shard.boxes == std::vector<TensorBox>{whole_box(shape)};
  return ranks > 1 && held.same_over_tensor && is_adapter_tensor(name) && whole &&
         name.find("language_model.") != std::string::npos && shape.size() == 2 &&
         shape[0] % ranks == 0;
}

HeldTensor rows_of_rank(HeldTensor held, int64_t rank, int64_t ranks) {
  const int64_t part = held.shard.elements() / ranks;
  held.shard.boxes = elements_of(held.shard.boxes, rank * part, (rank + 1) * part);
  held.data = held.data.reshape({-1}).narrow(0, rank * part, part);
  held.same_over_tensor = false;
  return held;
}

// The last stage's head of tied weights.
bool is_copy(const std::string& name, const Place& place) {
  return name.ends_with("word_embeddings.weight") && place.pipeline != 0;
}

}  // namespace

int64_t TensorBox::elements() const { return volume(size); }

int64_t Shard::elements() const {
  int64_t all = 0;
  for (const TensorBox& box : boxes) all += box.elements();
  return all;
}

std::vector<TensorBox> elements_of(const std::vector<TensorBox>& boxes, int64_t first,
                                   int64_t last) {
  std::vector<TensorBox> out;
  int64_t start = 0;
  for (const TensorBox& box : boxes) {
    const int64_t end = start + box.elements();
    const int64_t from = std::max(first, start), to = std::min(last, end);
    if (from < to) {
      const auto added = static_cast<std::ptrdiff_t>(out.size());
      add_run(box.size, 0, Sizes(box.size.size(), 0), from - start, to - start, out);
      for (auto each = out.begin() + added; each != out.end(); ++each) {
        for (size_t axis = 0; axis < box.offset.size(); ++axis) {
          each->offset[axis] += box.offset[axis];
        }
      }
    }
    start = end;
  }
  TORCH_CHECK(first >= 0 && last <= start, "elements ", first, " to ", last, " of ", start);
  return out;
}

std::vector<TensorBox> joined(const std::vector<TensorBox>& boxes) {
  std::vector<TensorBox> out;
  for (const TensorBox& box : boxes) {
    TensorBox behind = out.empty() ? TensorBox{} : out.back();
    if (!behind.size.empty()) {
      behind.offset[0] += behind.size[0];
      behind.size[0] = box.size.at(0);
    }
    if (!out.empty() && behind == box && !box.size.empty()) {
      out.back().size[0] += box.size[0];
    } else {
      out.push_back(box);
    }
  }
  return out;
}

Shard whole_shard(std::string name, TensorInfo info) {
  std::vector<TensorBox> boxes = {whole_box(info.shape)};
  return {std::move(name), std::move(info), std::move(boxes)};
}

Shard ShardPlan::shard_of(const std::string& name, const TensorInfo& local) const {
  const Split split = split_of(name);
  const RankOf who{place_.tensor, topology_.tensor};
  Shard shard{name, local, {}};
  Sizes& shape = shard.whole.shape;
  if (split == Split::kReplicated) {
    shard.boxes = {whole_box(shape)};
    return shard;
  }
  shape = whole_sizes(local.shape, split, who.ranks);
  const auto axis = static_cast<size_t>(axis_of(split));
  for (const ShareRun& run : share_runs(split, shape.at(axis), who)) {
    shard.boxes.push_back(along(shape, axis, run.whole_first, run.count));
  }
  return shard;
}

HeldTensor ShardPlan::held(const std::string& name, const at::Tensor& local) const {
  return {.shard = shard_of(name, info_of(local)),
          .data = local,
          .same_over_tensor = split_of(name) == Split::kReplicated,
          .same_over_data = true,
          .is_copy = is_copy(name, place_)};
}

HeldTensor ShardPlan::held_part(const std::string& name, at::IntArrayRef local, int64_t first,
                                const at::Tensor& data) const {
  HeldTensor held{.shard = shard_of(name, {data.scalar_type(), local.vec()}),
                  .data = data,
                  .same_over_tensor = split_of(name) == Split::kReplicated,
                  .is_copy = is_copy(name, place_)};
  held.shard.boxes = elements_of(held.shard.boxes, first, first + data.numel());
  return held;
}

RankOf ShardPlan::turn_of(const HeldTensor& held) const {
  RankOf turn;
  if (held.same_over_data) {
    turn.rank = place_.data * topology_.context + place_.context;
    turn.ranks = topology_.data * topology_.context;
  }
  if (held.same_over_tensor) {
    turn.rank = turn.rank * topology_.tensor + place_.tensor;
    turn.ranks *= topology_.tensor;
  }
  return turn;
}

std::vector<HeldTensor> ShardPlan::to_write(std::vector<HeldTensor> held) const {
  std::erase_if(held, [](const HeldTensor& each) { return each.is_copy; });
  // By the ranks that share it out, the largest first.
  std::map<std::pair<bool, bool>, std::vector<size_t>> classes;
  for (size_t i = 0; i < held.size(); ++i) {
    if (is_cut_in_files(held[i], topology_.tensor)) {
      held[i] = rows_of_rank(std::move(held[i]), place_.tensor, topology_.tensor);
    }
    classes[{held[i].same_over_tensor, held[i].same_over_data}].push_back(i);
  }
  std::vector<bool> is_mine(held.size(), false);
  for (auto& [axes, members] : classes) {
    const RankOf turn = turn_of(held[members.front()]);
    std::ranges::stable_sort(members, std::ranges::greater(),
                             [&](size_t i) { return held[i].data.nbytes(); });
    std::vector<uint64_t> bytes(static_cast<size_t>(turn.ranks), 0);
    for (const size_t i : members) {
      const auto least = std::ranges::min_element(bytes);
      *least += held[i].data.nbytes();
      is_mine[i] = least - bytes.begin() == turn.rank;
    }
  }
  std::vector<HeldTensor> mine;
  for (size_t i = 0; i < held.size(); ++i) {
    if (is_mine[i]) mine.push_back(std::move(held[i]));
  }
  return mine;
}

}  // namespace trestle
