// The loop of every conversion: a source's tensors, block by block, into the writer of a format.
// Called by convert.cpp and gguf.cpp.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>

#include "bridge/convert.h"
#include "bridge/stream.h"

namespace trestle {

template <class Writer>
struct Copied {
  Conversion done;
  Writer writer;
};

/// Copies every tensor of `list` from source to the writer that `open` makes, a pointer to
/// something with write_rows(name, rows), and gives it back. `written`: see plan_stream.
template <class Open>
auto copy_all(const TensorSource& source, const TensorList& list,
              const std::filesystem::path& target, const ConvertOptions& options, const Open& open,
              std::optional<uint64_t> written = {}) {
  // Before the writer: a disk without room is not touched.
  const StreamPlan plan = plan_stream(list, options.max_memory, target, written);
  auto writer = open();
  if (options.on_plan) options.on_plan(plan);  // what the writer refuses has been refused
  Conversion done;
  const std::string* last = nullptr;
  stream_rows(source, list, plan.block_bytes,
              [&](const std::string& name, std::span<const std::byte> rows) {
                if (&name != last) ++done.tensors;
                last = &name;
                writer->write_rows(name, rows);
                done.bytes += rows.size();
                if (options.on_progress) options.on_progress(done);
              });
  return Copied<decltype(writer)>{done, std::move(writer)};
}

}  // namespace trestle
