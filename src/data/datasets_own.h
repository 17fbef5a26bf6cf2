// People's own data, in the shapes that they have it in: JSON lines, Parquet, WebDataset. Called by
// the table of makers.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/datasets.h"

namespace trestle {

/// A conversation a line, or an array of them (json_rows.h); pictures' paths are relative to the
/// file. Only where each lies is kept in memory.
std::unique_ptr<Dataset> make_jsonl_dataset(const std::filesystem::path& path,
                                            const std::string& split);

/// Columns `messages` or `conversations` (a list of structs, or JSON text), `texts` (the
/// Cauldron's) or a pair of question and answer (exchange.h); `image` or `images` as
/// parse_conversation takes them, paths relative to the file; `system`; `tools`. Columns that would
/// be lost are refused where they say something, others are not read. Throws UserError where the
/// first file has no such columns, naming those that it has.
std::unique_ptr<Dataset> make_parquet_dataset(const std::vector<std::filesystem::path>& files);

/// `path`: a .tar file, a directory whose .tar files of `split` are taken, or a pattern,
/// train-{000000..000012}.tar or {train,more}.tar. A sample is the neighbouring members with one
/// key, the path up to the first dot of the file's name, as the `webdataset` package groups them.
/// Its .json is a conversation (parse_conversation), the list of its messages alone, or a pair of
/// question and answer; pictures that it names are members of the sample, URLs or data: URIs, and
/// the members that it does not name fill the places of pictures in order of their extensions.
/// Without such a .json, the pictures and "Describe this image." -> its .txt. Throws UserError for
/// members of one key that are not neighbours, or with the same extension.
std::unique_ptr<Dataset> make_webdataset(const std::filesystem::path& path,
                                         const std::string& split);

}  // namespace trestle
