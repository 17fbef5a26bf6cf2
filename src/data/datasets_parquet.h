// The data sets that Megatron Bridge's Ministral 3 page names, from Parquet files in the schemas
// that they have on the Hugging Face hub. Called by the table of makers.
#pragma once

#include <filesystem>
#include <memory>
#include <vector>

#include "data/datasets.h"

namespace trestle {

/// naver-clova-ix/cord-v2: image {bytes, path}, ground_truth JSON with gt_parse. Picture and
/// "Describe this image." -> Donut's json2token text.
std::unique_ptr<Dataset> make_cord_v2_dataset(const std::vector<std::filesystem::path>& files);
/// mmoukouba/MedPix-VQA: image_id {bytes, path}, question, answer. Picture and question -> answer.
std::unique_ptr<Dataset> make_medpix_dataset(const std::vector<std::filesystem::path>& files);
/// HuggingFaceM4/the_cauldron, raven: images [{bytes, path}], texts [{user, assistant, source}].
/// All pictures, and each text's user -> its assistant as the turns about them (the Bridge takes
/// the first alone; raven has one a row). Rows without a picture or a text are left out, as the
/// Bridge leaves them out.
std::unique_ptr<Dataset> make_raven_dataset(const std::vector<std::filesystem::path>& files);

}  // namespace trestle
