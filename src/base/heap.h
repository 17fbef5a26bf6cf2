// How memory comes and goes. Called by main and by the commands that train.
#pragma once

namespace trestle {

/// Large tensors are asked for in huge pages, which come in at a half of the time: a 3B model opens
/// in 0.6 of it. Before the first tensor; a THP_MEM_ALLOC_ENABLE of the environment's is left as it
/// is.
void prefer_huge_pages();

/// Memory that a step frees stays with the process for the next one, which asks for as much: given
/// back to the system, it would come in again page by page, zeroed (3 % of a step of the embedded
/// model). Of 32 MiB and more in one piece, and of more than 256 MiB at the heap's end, it goes
/// back as ever. Without glibc nothing changes.
void keep_freed_memory();

}  // namespace trestle
