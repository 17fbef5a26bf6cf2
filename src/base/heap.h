// How the heap treats memory that is freed. Called by the commands that train.
#pragma once

namespace trestle {

/// Memory that a step frees stays with the process for the next one, which asks for as much: given
/// back to the system, it would come in again page by page, zeroed (3 % of a step of the embedded
/// model). Of 32 MiB and more in one piece, and of more than 256 MiB at the heap's end, it goes
/// back as ever. Without glibc nothing changes.
void keep_freed_memory();

}  // namespace trestle
