// Which tokens end an answer, from the files of a checkpoint.
#include <gtest/gtest.h>

#include "base/file.h"
#include "errors.h"
#include "generate/stop.h"
#include "temp_dir.h"
#include "tokenizer/testing.h"

namespace trestle {
namespace {

namespace fs = std::filesystem;

class StopIds : public testing::InDirectory<> {
 protected:
  void SetUp() override {
    fs::copy(testing::kBytesCheckpoint / "tokenizer.json", directory_ / "tokenizer.json");
  }
  std::vector<int64_t> with(std::string_view generation_config) {
    write_text(directory_ / "generation_config.json", generation_config);
    return stop_ids(Tokenizer::open(directory_));
  }
};

TEST_F(StopIds, EndOfSequenceAlways) {
  EXPECT_EQ(stop_ids(Tokenizer::open(directory_)), std::vector<int64_t>{2});
  EXPECT_EQ(with("{}"), std::vector<int64_t>{2});
  EXPECT_EQ(with(R"({"eos_token_id": null})"), std::vector<int64_t>{2});
  EXPECT_EQ(with(R"({"eos_token_id": 2})"), std::vector<int64_t>{2});
}

TEST_F(StopIds, AndThoseOfTheGenerationConfig) {
  EXPECT_EQ(with(R"({"eos_token_id": 4})"), (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(with(R"({"eos_token_id": [4, 2, 7]})"), (std::vector<int64_t>{2, 4, 7}));
}

TEST_F(StopIds, RefusesWhatIsNoId) {
  for (const char* bad :
       {R"("</s>")", "-1", "2.5", "1000000", "[2, null]", "[[2]]", "{}", "true"}) {
    EXPECT_REFUSED(with(fmt::format(R"({{"eos_token_id": {}}})", bad)),
                   "generation_config.json: eos_token_id holds ");
  }
  EXPECT_REFUSED(with("{"), "generation_config.json", "not valid JSON");
}

}  // namespace
}  // namespace trestle
