// The named data sets in the schemas that they have on the hub (tools/make_dataset_goldens.py).
#include <gtest/gtest.h>

#include "data/datasets.h"
#include "data/testing.h"
#include "errors.h"

namespace trestle {
namespace {

using testing::text_of;

constexpr const char* kFolder = "data/golden";

TEST(Datasets, MedpixIsPictureAndQuestionThenAnswer) {
  const auto dataset =
      make_dataset("make_medpix_dataset", "data/golden/medpix-train-00000-of-00001.parquet", "");
  ASSERT_EQ(dataset->size(), 3);
  EXPECT_EQ(text_of(dataset->row(0)), "user: <image>What is shown?\nassistant: A chest.\n");
  EXPECT_EQ(text_of(dataset->row(2)), "user: <image>Where is it?\nassistant: On the left.\n");
  EXPECT_EQ(dataset->ground_truth(1), "Axial.");
  EXPECT_TRUE(dataset->row(1).messages[0].parts[0].image.bytes->starts_with("\x89PNG"));
}

// users' pain point 27: several texts about one picture.
TEST(Datasets, RavenIsEveryPictureAndEveryText) {
  const auto dataset =
      make_dataset("make_raven_dataset", "data/golden/raven-train-00000-of-00001.parquet", "");
  // Of five rows two have no picture and one no text.
  ASSERT_EQ(dataset->size(), 2);
  EXPECT_EQ(text_of(dataset->row(0)),
            "user: <image><image>Which figure is next?\nA, B, C or D?\nassistant: B\n"
            "user: Again?\nassistant: C\n");
  EXPECT_EQ(text_of(dataset->row(1)), "user: <image>Again?\nassistant: C\n");
  EXPECT_EQ(dataset->ground_truth(0), "C");  // of the last turn, which is evaluated
  const Message user = dataset->row(0).messages[0];
  EXPECT_NE(*user.parts[0].image.bytes, *user.parts[1].image.bytes);
}

TEST(Datasets, WrongOnesAreNamed) {
  EXPECT_REFUSED(make_dataset("make_medpicks_dataset", kFolder, "train"),
                 "did you mean make_medpix_dataset");
  EXPECT_REFUSED(make_dataset("make_cord_v2_dataset", kFolder, "train"), "image.bytes");
  EXPECT_REFUSED(make_dataset("csv", kFolder, "train"),
                 "dataset.maker_name=csv is not known; there are jsonl, ");
  // The key that has the path, whichever it is.
  for (const auto& [maker, path] :
       {std::pair("jsonl", "nowhere/rows.jsonl"), std::pair("parquet", "nowhere/rows.parquet"),
        std::pair("parquet", "nowhere/a/b"), std::pair("webdataset", "nowhere/a/b"),
        std::pair("webdataset", "nowhere/{a,b}.tar")}) {
    const std::string said = testing::error_of(
        [&, maker = maker, path = path] { make_dataset(maker, {.path = path, .key = "the.key"}); });
    testing::expect_mentions(said, {"the.key", "nowhere/"});
    EXPECT_EQ(said.find("dataset.path_or_dataset"), std::string::npos) << said;
  }
  EXPECT_REFUSED(make_dataset("make_raven_dataset", kFolder, "validation"), "split 'validation'");
}

}  // namespace
}  // namespace trestle
