// The loop of every conversion: a source's tensors, block by block, into the writer of a format.
// Called by convert.cpp and gguf.cpp.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "bridge/convert.h"
#include "bridge/stream.h"

namespace trestle {

/// Copies every tensor of `list` from source to the writer that `open` makes: a pointer to
/// something with write_rows(name, rows) and commit(). `written`: see plan_stream.
template <class Open>
Conversion copy_all(const TensorSource& source, const TensorList& list,
                    const std::filesystem::path& target, const ConvertOptions& options,
                    const Open& open, std::optional<uint64_t> written = {}) {
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
  writer->commit();
  return done;
}

}  // namespace trestle
