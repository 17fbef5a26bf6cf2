#include "cli/dataset_flags.h"

#include <fmt/ranges.h>

#include <utility>

#include "base/error.h"

namespace trestle {

void DatasetFlags::add_to(Command command, std::string default_split) {
  split = std::move(default_split);
  command
      .add("--maker", maker,
           fmt::format("what the data are: {}", fmt::join(dataset_makers(), ", ")))
      .show_default();
  command
      .add("--data", path,
           "file or directory; of webdataset also a pattern, 'train-{000..012}.tar'")
      .required();
  split_flag =
      command
          .add("--split", split, "of a directory, the files with this word in their names; '': all")
          .show_default();
}

std::unique_ptr<Dataset> DatasetFlags::open() const {
  if (split_flag->is_given() && !split.empty() && !split_matters(maker, path)) {
    user_error("--split {} has no effect: --maker {} reads --data {} whole; leave --split out{}",
               split, maker, path,
               maker == "jsonl" ? "" : ", or name the directory that the file is in");
  }
  std::unique_ptr<Dataset> dataset = make_dataset(maker, path, split);
  fmt::print(stderr, "data {}\n", describe_files(*dataset, path));
  return dataset;
}

}  // namespace trestle
