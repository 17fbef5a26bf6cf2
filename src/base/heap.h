// How memory comes and goes, and what is said where it does not. Called by main.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace trestle {

/// Large tensors are asked for in huge pages, which come in at half the time: a 3B model opens in
/// 0.6 of it. What is freed stays with the process for what comes next, as a step asks for what the
/// one before gave back: through the system it would come in again page by page, zeroed (3 % of a
/// step of the embedded model). Pieces of 32 MiB and more, and more than 256 MiB at the heap's end,
/// go back as ever. Before the first tensor; a THP_MEM_ALLOC_ENABLE of the environment's stays.
/// Without glibc only the first is done.
void settle_heap();

/// Of what libtorch throws when an allocation fails, on the CPU or on a card: "2.00 GiB were asked
/// for, of 79.15 GiB 1.02 GiB are free". Nothing of another error.
std::optional<std::string> memory_asked(std::string_view error);

}  // namespace trestle
