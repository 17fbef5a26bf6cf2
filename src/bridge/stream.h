// Tensors from a source to a writer in blocks of rows, reading and writing at the same time: the
// engine of every conversion. Its memory does not depend on the size of tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "formats/safetensors.h"
#include "formats/tensor_source.h"

namespace trestle {

/// Sizes of a conversion that is about to begin.
struct StreamPlan {
  int64_t tensors = 0;
  uint64_t bytes = 0;
  uint64_t block_bytes = 0;
  /// What the process will hold at most, what it holds now included.
  uint64_t peak_bytes = 0;
  /// Free on the target's file system.
  uint64_t free_disk = 0;
};

/// What the process holds now.
uint64_t resident_bytes();
/// Gives back what the allocator keeps of freed blocks.
void release_free_memory();

/// Chooses blocks so that the process stays below `max_memory` bytes. `written` is what `target`
/// will take where that is not the tensors' own size. Throws UserError when the memory is less than
/// the process holds already, MachineError when `target`'s disk has too little room.
StreamPlan plan_stream(const TensorList& list, uint64_t max_memory,
                       const std::filesystem::path& target, std::optional<uint64_t> written = {});

/// Gets the next rows of a tensor, in the order of the list.
using RowSink = std::function<void(const std::string& name, std::span<const std::byte> rows)>;

/// Reads on a thread of its own, some blocks ahead of `sink`. What either side throws ends both.
void stream_rows(const TensorSource& source, const TensorList& list, uint64_t block_bytes,
                 const RowSink& sink);

}  // namespace trestle
