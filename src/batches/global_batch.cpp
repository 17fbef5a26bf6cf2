#include "batches/global_batch.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "batches/levelling.h"
#include "batches/sample_bytes.h"
#include "parallel/agreement.h"

namespace trestle {

namespace {

std::string text_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& what) {
    return what.what();
  }
}

bool is_user_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const UserError&) {
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

GlobalBatches::GlobalBatches(SampleStream& stream, Options options)
    : stream_(stream), options_(std::move(options)), position_(stream.options().start) {
  TORCH_CHECK(stream.options().rank == options_.ranks.rank() &&
                  stream.options().ranks == options_.ranks.size(),
              "the stream is another rank's");
}

GlobalBatches::Mine GlobalBatches::draw() {
  Mine mine{{}, stream_.draw()};
  SampleStream::Slot& slot = mine.slot;
  mine.entry.row = slot.row;
  if (slot.sample && options_.check) {
    SampleStream::Taken taken{slot.row, std::move(*slot.sample)};
    try {
      options_.check(taken);
    } catch (...) {
      slot.error = std::current_exception();
    }
    slot.sample = std::move(taken.sample);
  }
  if (slot.error) {
    mine.entry.state = is_user_error(slot.error) ? Entry::kUserError : Entry::kFailed;
  } else if (slot.sample) {
    mine.entry.state = Entry::kKept;
    mine.entry.tokens = std::ssize(slot.sample->ids);
    mine.entry.targets = slot.sample->targets();
    mine.entry.images = std::ssize(slot.sample->images_CHW);
    if (options_.cost && !options_.ranks.is_one()) {
      mine.entry.cost = options_.cost(*slot.sample);
      mine.entry.bytes = size_in_bytes(*slot.sample);
    }
  }
  return mine;
}

std::vector<GlobalBatches::Mine> GlobalBatches::draw_until(int64_t end) {
  std::vector<Mine> mine;
  while (stream_.position() < end) {
    mine.push_back(draw());
    if (mine.back().slot.error) break;  // nobody will ask for what is behind it
  }
  return mine;
}

// Of the positions from `begin` to `end`, in their order.
std::vector<GlobalBatches::Entry> GlobalBatches::gather(const std::vector<Mine>& mine,
                                                        int64_t begin, int64_t end) const {
  const int64_t ranks = options_.ranks.size();
  const int64_t most = (end - begin + ranks - 1) / ranks;
  at::Tensor rows = at::zeros({1, most, kNumbers}, at::kLong);
  auto* to = rows.mutable_data_ptr<int64_t>();
  for (size_t i = 0; i < mine.size(); ++i) {
    std::memcpy(to + static_cast<int64_t>(i) * kNumbers, &mine[i].entry, sizeof(Entry));
  }
  const at::Tensor all = options_.ranks.all_gather(rows);
  std::vector<Entry> entries(static_cast<size_t>(end - begin));
  std::vector<int64_t> used(static_cast<size_t>(ranks), 0);
  for (int64_t position = begin; position < end; ++position) {
    const int64_t maker = maker_of(position);
    const int64_t n = used[static_cast<size_t>(maker)]++;
    std::memcpy(&entries[static_cast<size_t>(position - begin)],
                all.const_data_ptr<int64_t>() + (maker * most + n) * kNumbers, sizeof(Entry));
  }
  return entries;
}

void GlobalBatches::fail(const std::vector<Mine>& mine, int64_t position, Entry entry) const {
  const int64_t maker = maker_of(position);
  const bool is_mine = maker == options_.ranks.rank();
  const auto error =
      std::ranges::find_if(mine, [](const Mine& each) { return each.slot.error != nullptr; });
  if (options_.ranks.is_one()) std::rethrow_exception(error->slot.error);
  const std::vector<std::string> texts =
      options_.ranks.gather(is_mine ? text_of(error->slot.error) : "");
  if (is_mine && entry.state == Entry::kFailed) std::rethrow_exception(error->slot.error);
  const int64_t name = options_.names[static_cast<size_t>(maker)];
  const std::string& text = texts[static_cast<size_t>(maker)];
  if (entry.state == Entry::kFailed) throw LostRank(fmt::format("rank {} failed: {}", name, text));
  throw AgreedError(fmt::format("rank {}: {}", name, text));
}

void GlobalBatches::exchange(GlobalBatch& batch, const std::vector<Entry>& kept,
                             const std::vector<int64_t>& makers) const {
  if (options_.ranks.is_one() || !options_.cost) return;
  std::vector<int64_t> costs;
  for (const Entry& entry : kept) costs.push_back(entry.cost);
  const std::vector<int64_t> takers = levelled(costs, makers, options_.ranks.size());
  const int64_t me = options_.ranks.rank();
  std::vector<Sample> samples;
  std::vector<int64_t> rows;
  std::vector<Pending> sent;
  auto next_of_mine = batch.samples.begin();
  // All that goes is on its way before anything is waited for.
  std::vector<Sample> stay;
  for (size_t i = 0; i < kept.size(); ++i) {
    if (makers[i] != me) continue;
    Sample& sample = *next_of_mine++;
    if (takers[i] == me) {
      stay.push_back(std::move(sample));
    } else {
      sent.push_back(options_.ranks.send(bytes_of_sample(sample), takers[i]));
    }
  }
  auto next_that_stays = stay.begin();
  for (size_t i = 0; i < kept.size(); ++i) {
    if (takers[i] != me) continue;
    rows.push_back(kept[i].row);
    if (makers[i] == me) {
      samples.push_back(std::move(*next_that_stays++));
      continue;
    }
    const at::Tensor bytes = at::empty({kept[i].bytes}, at::kByte);
    options_.ranks.receive(bytes, makers[i]).wait();
    samples.push_back(sample_of_bytes(bytes));
  }
  for (Pending& each : sent) each.wait();
  batch.samples = std::move(samples);
  batch.rows = std::move(rows);
}

GlobalBatch GlobalBatches::next(int64_t size) {
  GlobalBatch batch;
  std::vector<Entry> kept;
  std::vector<int64_t> makers;
  // Where some are dropped, as many again are looked at: the last one that is looked at is kept,
  // as it is where a single rank takes one after the other.
  while (std::ssize(batch.all_rows) < size) {
    const int64_t begin = position_, end = begin + size - std::ssize(batch.all_rows);
    std::vector<Mine> mine = draw_until(end);
    const std::vector<Entry> entries = gather(mine, begin, end);
    auto next_of_mine = mine.begin();
    for (; position_ < end; ++position_) {
      const Entry& entry = entries[static_cast<size_t>(position_ - begin)];
      if (entry.state >= Entry::kUserError) fail(mine, position_, entry);
      const bool is_mine = maker_of(position_) == options_.ranks.rank();
      if (entry.state == Entry::kDropped) {
        if (++dropped_on_end_ > stream_.samples_for_all()) stream_.every_row_is_dropped();
        next_of_mine += is_mine ? 1 : 0;
        continue;
      }
      dropped_on_end_ = 0;
      batch.all_rows.push_back(entry.row);
      kept.push_back(entry);
      makers.push_back(maker_of(position_));
      batch.targets += entry.targets;
      batch.tokens += entry.tokens;
      batch.images += entry.images;
      if (!is_mine) continue;
      batch.rows.push_back(entry.row);
      batch.samples.push_back(std::move(*next_of_mine->slot.sample));
      ++next_of_mine;
    }
  }
  exchange(batch, kept, makers);
  return batch;
}

}  // namespace trestle
