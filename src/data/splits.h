// Which files of a directory, or of a repository of the Hub, belong to a split. Called by the data
// sets from Parquet and tars, by those of the Hub and by the table of makers.
//
// A file belongs to a split where one of the directories below the data's own, or else the file's
// name, holds the split as a whole word: `train-00000-of-00001.parquet`, `cord_train_0.tar`,
// `train/0000.parquet`. No letter may stand beside it, and no digit beside a digit of its own, as
// Hugging Face's `datasets` has it (data_files.py: `-._ 0-9` part words): `train2.tar` is of train,
// `constrained.tar` and `training.tar` are not. After the same patterns a directory's word counts
// more than a file's, so that `test/train-0.tar` is of test alone and `train/test.parquet` of
// train; a file with two splits at the place that counts, `train-test.parquet`, is of both; what
// begins with a dot is of none.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace trestle {

/// `file`: a path below the data's directory, relative to it. Every file is of split "".
bool is_of_split(const std::filesystem::path& file, std::string_view split);

/// Those of `split` among `files`, which are relative to `root`, in their order. Throws UserError
/// for a file that is both of the training split and of another, where `split` is such a word: only
/// a split of another name (`train-test`) means it.
std::vector<std::filesystem::path> choose_split(const std::vector<std::filesystem::path>& files,
                                                std::string_view split,
                                                const std::filesystem::path& root);

/// "it has those of train, test", or the files' names where they tell no split.
std::string describe_splits(const std::vector<std::filesystem::path>& files);

/// `path` itself where it is no directory; else the files with `extension` (".parquet") below it
/// that are of `split`, sorted. Throws UserError when there is none, naming the splits that there
/// are, and as choose_split does.
std::vector<std::filesystem::path> files_of_split(const std::filesystem::path& path,
                                                  std::string_view split,
                                                  std::string_view extension);

/// Likewise, and none where `path` is no directory.
std::vector<std::filesystem::path> find_split(const std::filesystem::path& path,
                                              std::string_view split, std::string_view extension);

/// Of a directory. For messages that a split is missing.
std::string describe_splits(const std::filesystem::path& path, std::string_view extension);

}  // namespace trestle
