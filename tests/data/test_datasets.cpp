// The named data sets in the schemas that they have on the hub (tools/make_dataset_goldens.py).
#include <gtest/gtest.h>

#include "base/error.h"
#include "data/datasets.h"
#include "errors.h"

namespace trestle {
namespace {

std::string text_of(const Message& message) {
  std::string text;
  for (const Part& part : message.parts) {
    text += part.kind == Part::Kind::kImage ? "<image>" : part.text;
  }
  return text;
}

std::string whole(const Dataset& dataset, int64_t row) {
  std::string text;
  for (const Message& message : dataset.row(row).messages) {
    text += std::string(role_name(message.role)) + ": " + text_of(message) + "\n";
  }
  return text;
}

constexpr const char* kFolder = "data/golden";

TEST(Datasets, MedpixIsPictureAndQuestionThenAnswer) {
  const auto dataset =
      make_dataset("make_medpix_dataset", "data/golden/medpix-train-00000-of-00001.parquet", "");
  ASSERT_EQ(dataset->size(), 3);
  EXPECT_EQ(whole(*dataset, 0), "user: <image>What is shown?\nassistant: A chest.\n");
  EXPECT_EQ(whole(*dataset, 2), "user: <image>Where is it?\nassistant: On the left.\n");
  EXPECT_EQ(dataset->ground_truth(1), "Axial.");
  EXPECT_TRUE(dataset->row(1).messages[0].parts[0].image.bytes->starts_with("\x89PNG"));
}

// users' pain point 27: several texts about one picture.
TEST(Datasets, RavenIsEveryPictureAndEveryText) {
  const auto dataset =
      make_dataset("make_raven_dataset", "data/golden/raven-train-00000-of-00001.parquet", "");
  // Of five rows two have no picture and one no text.
  ASSERT_EQ(dataset->size(), 2);
  EXPECT_EQ(whole(*dataset, 0),
            "user: <image><image>Which figure is next?\nA, B, C or D?\nassistant: B\n"
            "user: Again?\nassistant: C\n");
  EXPECT_EQ(whole(*dataset, 1), "user: <image>Again?\nassistant: C\n");
  EXPECT_EQ(dataset->ground_truth(0), "C");  // of the last turn, which is evaluated
  const Message user = dataset->row(0).messages[0];
  EXPECT_NE(*user.parts[0].image.bytes, *user.parts[1].image.bytes);
}

TEST(Datasets, WrongOnesAreNamed) {
  EXPECT_NE(error_of([] {
              make_dataset("make_medpicks_dataset", kFolder, "train");
            }).find("did you mean make_medpix_dataset"),
            std::string::npos);
  EXPECT_NE(
      error_of([] { make_dataset("make_cord_v2_dataset", kFolder, "train"); }).find("image.bytes"),
      std::string::npos);
  EXPECT_NE(error_of([] {
              make_dataset("make_raven_dataset", kFolder, "validation");
            }).find("split 'validation'"),
            std::string::npos);
}

}  // namespace
}  // namespace trestle
