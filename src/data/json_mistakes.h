// What a file is that was given as rows of JSON and holds none as they are read: the mistake of the
// whole file, said once. Called by the data set of JSON lines.
#pragma once

#include "base/file.h"
#include "formats/json_rows.h"

namespace trestle {

/// Throws UserError for one object with the rows in lists under its keys ({"data": [...]},
/// {"train": [...], "test": [...]}), on one line or many, and for a table as CSV. Reads the first
/// line, and the whole file where that is no JSON, up to 256 MiB.
void refuse_other_files(const MappedFile& file, const JsonRows& rows);

}  // namespace trestle
