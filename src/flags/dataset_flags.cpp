#include "flags/dataset_flags.h"

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
           "file or directory; of webdataset also a pattern, 'train-{000..012}.tar'; of Parquet "
           "also "
           "ORG/NAME[@REVISION] on the Hub")
      .required();
  split_flag =
      command
          .add("--split", split,
               "of a directory, the files with this word in their names; of a name the data set's "
               "split; '': all")
          .show_default();
  command.add("--subset", subset, "of a data set on the Hub; default: its own default");
}

std::unique_ptr<Dataset> DatasetFlags::open() const {
  if (split_flag->is_given() && !split.empty() && !split_matters(maker, path)) {
    user_error("--split {} has no effect: --maker {} reads --data {} whole; leave --split out{}",
               split, maker, path,
               maker == "jsonl" ? "" : ", or name the directory that the file is in");
  }
  if (!subset.empty() && !is_on_hub(maker, path)) {
    user_error("--subset {} has no effect: --data {} is no data set on the Hub by its name", subset,
               path);
  }
  std::unique_ptr<Dataset> dataset =
      make_dataset(maker, {.path = path, .split = split, .subset = subset, .key = "--data"});
  fmt::print(stderr, "data {}\n", describe_files(*dataset, path));
  return dataset;
}

}  // namespace trestle
